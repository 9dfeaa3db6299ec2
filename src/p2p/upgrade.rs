//! From a raw stream to a peer we know: SecretConnection, then NodeInfo, each within its time
//! (`protocol.md` 2.1–2.4).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::channels::{Framing, PEX};
use super::counters::Reason;
use super::key::NodeKey;
use super::node_info::{MAX_NODE_INFO, NodeInfo, NodeInfoError};
use super::secret::{SecretError, handshake};
use super::stream::{StreamReader, StreamWriter, stack_varint};
use crate::ids::PeerId;

/// How long each stage may take. Go's constants, which no setting changes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Deadlines {
    /// The TCP connection: 1 s.
    pub dial: Duration,
    /// The SecretConnection: 3 s.
    pub secret: Duration,
    /// NodeInfo: a fresh 3 s.
    pub node_info: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            dial: Duration::from_secs(1),
            secret: Duration::from_secs(3),
            node_info: Duration::from_secs(3),
        }
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Nobody answered, or the name does not resolve.
    #[error("dial: {0}")]
    Dial(std::io::Error),
    /// A stage took too long.
    #[error("{stage} not done after {after:?}")]
    Timeout {
        /// Name of the stage.
        stage: &'static str,
        /// The time that it had.
        after: Duration,
    },
    /// The SecretConnection failed.
    #[error("{stage}: {error}")]
    Secret {
        /// The stage that failed.
        stage: &'static str,
        /// The error.
        error: SecretError,
    },
    /// Another node than the one that was dialled.
    #[error("node {proven} answered where {dialled} was dialled")]
    WrongId {
        /// The id that was wanted.
        dialled: PeerId,
        /// The id that is there.
        proven: PeerId,
    },
    /// Not on the list of those allowed, or banned.
    #[error("node {0} is not allowed: {1}")]
    NotAllowed(PeerId, &'static str),
    /// A NodeInfo that does not fit.
    #[error("node info of {0}: {1}")]
    NodeInfo(PeerId, NodeInfoError),
    /// The id is connected already.
    #[error("node {0} is connected already")]
    Duplicate(PeerId),
    /// There are as many as may be.
    #[error("{0}")]
    Full(&'static str),
}

impl UpgradeError {
    /// For the counters.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            UpgradeError::Dial(_) => Reason::Dial,
            // Nobody has answered, so there was no handshake that could have taken too long.
            UpgradeError::Timeout { stage: "dial", .. } => Reason::Dial,
            UpgradeError::Timeout { .. } => Reason::HandshakeTimeout,
            // A node that refuses us in a handshake says nothing and closes (`protocol.md` 1.1).
            UpgradeError::Secret {
                error: SecretError::Io(_),
                ..
            } => Reason::Disconnected,
            UpgradeError::Secret { .. } => Reason::Secret,
            UpgradeError::WrongId { .. } => Reason::WrongId,
            UpgradeError::NotAllowed(..) => Reason::NotAllowed,
            UpgradeError::NodeInfo(_, NodeInfoError::Version1 { .. }) => Reason::Version1,
            UpgradeError::NodeInfo(_, NodeInfoError::Ourselves) => Reason::Ourselves,
            UpgradeError::NodeInfo(..) => Reason::NodeInfo,
            UpgradeError::Duplicate(_) => Reason::Duplicate,
            UpgradeError::Full(_) => Reason::Full,
        }
    }

    /// Trying again soon is of no use: somebody has to change something first.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            UpgradeError::WrongId { .. }
                | UpgradeError::NotAllowed(..)
                | UpgradeError::NodeInfo(..)
        )
    }
}

/// Our side of a handshake.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Our node key.
    pub key: &'a NodeKey,
    /// Our own node info.
    pub ours: &'a NodeInfo,
    /// Whom we dialled; `None` for a peer that came to us.
    pub dialled: Option<PeerId>,
    /// Whether v1.0 nodes may stay.
    pub allow_v1: bool,
    /// Time.
    pub deadlines: Deadlines,
}

/// A peer that has passed both handshakes.
#[derive(Debug)]
pub struct Upgraded<R, W> {
    /// The peer's id, proven by its key.
    pub id: PeerId,
    /// The peer's node info, checked.
    pub info: NodeInfo,
    /// The framing that both sides speak.
    pub framing: Framing,
    /// Both have channel 0x00.
    pub pex: bool,
    /// From the peer; may hold bytes that came after its NodeInfo.
    pub reader: StreamReader<R>,
    /// To the peer.
    pub writer: StreamWriter<W>,
}

/// Does both handshakes. `admit` is asked once the id is proven, before anything is said about
/// ourselves.
///
/// At most 8 KiB are held for a peer before its id is proven, 24 KiB before its NodeInfo is
/// accepted.
///
/// Cancel safety: not cancel safe; drop the stream then.
///
/// # Errors
/// The first stage that failed. Close the connection.
pub async fn upgrade<R, W>(
    reader: R,
    writer: W,
    terms: &Terms<'_>,
    admit: impl FnOnce(PeerId) -> Result<(), UpgradeError>,
) -> Result<Upgraded<R, W>, UpgradeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = (StreamReader::new(reader), StreamWriter::new(writer));
    let secret = handshake(&mut reader, &mut writer, terms.key);
    let proven = within("secret connection", terms.deadlines.secret, secret).await?;
    // Before anything is said about ourselves (`protocol.md` 2.3).
    if let Some(dialled) = terms.dialled.filter(|d| *d != proven) {
        return Err(UpgradeError::WrongId { dialled, proven });
    }
    admit(proven)?;
    let exchange = exchange(&mut reader, &mut writer, terms.ours);
    let theirs = within("node info", terms.deadlines.node_info, exchange).await?;
    let refused = |e| UpgradeError::NodeInfo(proven, e);
    let info = NodeInfo::decode(&theirs).map_err(refused)?;
    terms
        .ours
        .check(&info, proven, terms.allow_v1)
        .map_err(refused)?;
    let framing = if terms.ours.length_prefixed && info.length_prefixed {
        Framing::Frames { marked: true }
    } else {
        Framing::Packets
    };
    Ok(Upgraded {
        id: proven,
        framing,
        pex: terms.ours.channels().contains(&PEX) && info.channels().contains(&PEX),
        info,
        reader,
        writer,
    })
}

async fn exchange<R, W>(
    reader: &mut StreamReader<R>,
    writer: &mut StreamWriter<W>,
    ours: &NodeInfo,
) -> Result<Vec<u8>, SecretError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = ours.encode();
    let (length, n) = stack_varint(ours.len() as u64);
    writer.put(&length[..n])?;
    writer.put(&ours)?;
    // At the same time: the peer writes without waiting for ours (`protocol.md` 2.1).
    let (theirs, ()) = tokio::try_join!(reader.read_delimited(MAX_NODE_INFO), writer.flush())?;
    Ok(theirs)
}

async fn within<T>(
    stage: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, SecretError>>,
) -> Result<T, UpgradeError> {
    match timeout(after, work).await {
        Ok(done) => done.map_err(|error| UpgradeError::Secret { stage, error }),
        Err(_) => Err(UpgradeError::Timeout { stage, after }),
    }
}
