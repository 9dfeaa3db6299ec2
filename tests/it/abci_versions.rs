//! Applications of every version of ABCI behind a socket: sessions recorded from CometBFT, whole
//! chains, and an application that belongs to another stretch of the chain.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{AbciClient, App, Spoken};
use blocksync::chain::{AbciVersion, RuleSchedule, Rules};
use blocksync::ids::Height;
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{BlockSync, Config, StartError, Status};
use blocksync::store::{MemStore, Store};
use blocksync::varint::{self, Read};
use blocksync_testkit::app::socket::listen;
use blocksync_testkit::app::{ParamsKvStore, PersistentKvStore};
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::chain::TestChain;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, chain_dir, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const GUARD: Duration = Duration::from_secs(120);

fn shared<A>(app: A) -> Arc<tokio::sync::Mutex<A>> {
    Arc::new(tokio::sync::Mutex::new(app))
}

/// Syncs a chain over a socket to the block below its tip, or until it cannot go on.
async fn run(
    chain: &Arc<Recorded>,
    rules: &RuleSchedule,
    store: &Arc<MemStore>,
    address: &str,
) -> Result<Status, StartError> {
    let last = chain.tip().prev();
    run_to(last, Behaviour::Honest, chain, rules, store, address).await
}

/// Syncs a chain over a socket to a height from a peer, or until it cannot go on.
async fn run_to(
    last: Height,
    peer: Behaviour,
    chain: &Arc<Recorded>,
    rules: &RuleSchedule,
    store: &Arc<MemStore>,
    address: &str,
) -> Result<Status, StartError> {
    let mut config = config(3);
    config.rules = rules.clone();
    config.pool.until = Some(last);
    // Not one of these applications comes back as another one.
    config.app_retry = Duration::ZERO;
    sync_over(address, config, (chain, peer), store).await
}

/// Syncs a chain from a peer into the application at an address, to the height that the
/// configuration has, or until it cannot go on.
pub(crate) async fn sync_over(
    address: &str,
    config: Config,
    (chain, peer): (&Arc<Recorded>, Behaviour),
    store: &Arc<MemStore>,
) -> Result<Status, StartError> {
    let last = config.pool.until.expect("a last height");
    let app = AbciClient::new(address).unwrap();
    let service = BlockSync::builder(store.clone(), app, chain.genesis.clone());
    let handle = service.config(config).spawn().await?;
    let peer = scripted(chain, 1, peer, Duration::ZERO);
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    let ended = status.wait_for(|s| {
        s.applied == last
            || matches!(
                s.outcome,
                Outcome::LocalFault(_) | Outcome::Contradiction { .. }
            )
    });
    let ended = tokio::time::timeout(GUARD, ended).await;
    let status = ended.expect("an end in time").unwrap().clone();
    handle.stop().await;
    Ok(status)
}

/// The block that the application does not execute, and the words for it.
fn halted(ended: Result<Status, StartError>) -> (Height, String) {
    match ended {
        Err(error @ StartError::Halted { height, .. }) => (height, error.to_string()),
        Err(other) => panic!("{other}"),
        Ok(status) => match status.outcome {
            Outcome::LocalFault(fault @ LocalFault::Halted { height, .. }) => {
                (height, fault.to_string())
            }
            other => panic!("{other:?} at {}", status.applied),
        },
    }
}

/// The key of `VerifyVoteExtension` in a request; the lengths of those recorded have one byte.
const VERIFY_VOTE_EXTENSION: [u8; 2] = [0x9a, 0x01];

/// Calls of a recorded connection, flushes apart: what the node sent, and what the application
/// answered.
#[derive(Debug)]
struct Session {
    version: AbciVersion,
    calls: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Session {
    fn load(file: &str, version: AbciVersion) -> Self {
        let path = chain_dir("../data/abci").join(file);
        let file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut calls = Vec::new();
        for connection in file["connections"].as_array().unwrap() {
            if !["query", "consensus"].contains(&connection["name"].as_str().unwrap()) {
                continue;
            }
            let frames = connection["frames"].as_array().unwrap().iter();
            let of = |from: &str| -> Vec<Vec<u8>> {
                let frames = frames.clone().filter(|f| f["from"] == *from);
                let bytes = frames.map(|f| hex::decode(f["hex"].as_str().unwrap()).unwrap());
                // A flush, and its answer.
                bytes
                    .filter(|b| b[1..] != [0x12, 0] && b[1..] != [0x1a, 0])
                    .collect()
            };
            let (sent, answered) = (of("node"), of("app"));
            assert_eq!(sent.len(), answered.len());
            // The node of 1.0 came to its tip by consensus, which asks about the extensions of
            // votes: no part of a sync.
            let both = sent.into_iter().zip(answered);
            calls.extend(both.filter(|(sent, _)| sent[1..3] != VERIFY_VOTE_EXTENSION));
        }
        Session { version, calls }
    }

    /// A frame off the socket, its length included; `None` at the end.
    async fn frame(&self, socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
        loop {
            if let Read::Value(number, prefix) = varint::read(buffer) {
                let doubled = self.version == AbciVersion::V034;
                let end = prefix + usize::try_from(number >> u32::from(doubled)).unwrap();
                if end <= buffer.len() {
                    let rest = buffer.split_off(end);
                    return Some(std::mem::replace(buffer, rest));
                }
            }
            if socket.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Answers as it was answered then, for as long as the same is said. Gives the number of calls,
    /// and the first one that was another.
    async fn replay(&self, mut socket: TcpStream) -> (usize, Option<String>) {
        let (mut buffer, mut pending, mut at) = (Vec::new(), Vec::new(), 0);
        while let Some(frame) = self.frame(&mut socket, &mut buffer).await {
            if frame[1..] == [0x12, 0] {
                pending.extend_from_slice(&[frame[0], 0x1a, 0]);
                if socket
                    .write_all(&std::mem::take(&mut pending))
                    .await
                    .is_err()
                {
                    break;
                }
                continue;
            }
            let recorded = self.calls.get(at);
            match recorded {
                Some((sent, answer)) if *sent == frame => pending.extend_from_slice(answer),
                other => {
                    let other = other.map(|(sent, _)| hex::encode(sent));
                    let frame = hex::encode(frame);
                    return (at, Some(format!("call {at}: {frame}, recorded {other:?}")));
                }
            }
            at += 1;
        }
        (at, None)
    }
}

#[tokio::test]
async fn recorded_sessions_are_what_we_say_byte_for_byte() {
    let sessions = [
        ("s-v034", Rules::COMET_034, "session-034.json"),
        ("s-v037", Rules::COMET_037, "session-037.json"),
        ("s-v100", Rules::COMET_100, "session-100.json"),
    ];
    for (name, rules, file) in sessions {
        let chain = Recorded::load_by(name, &rules.into());
        let session = Session::load(file, rules.abci);
        let whole = session.calls.len();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            session.replay(socket).await
        });
        let store = Arc::new(MemStore::new());
        let (last, rules) = (chain.tip(), rules.into());
        let proves = Behaviour::ProvesTip;
        let ended = run_to(last, proves, &chain, &rules, &store, &address).await;
        let status = ended.unwrap();
        let (calls, other) = served.await.unwrap();
        assert_eq!(other, None, "{name}");
        assert_eq!(status.applied, last, "{name}: {status:?}");
        let hash = chain.app_hash_after(last);
        assert_eq!(hex::encode(&status.app_hash), hash, "{name}");
        assert_eq!(calls, whole, "{name}");
    }
}

/// Syncs a recorded chain into an application of its version.
async fn synced<A: App>(name: &'static str, rules: Rules, app: A) {
    let schedule = RuleSchedule::from(rules);
    let chain = Recorded::load_by(name, &schedule);
    let address = listen(rules.abci, shared(app)).await;
    let store = Arc::new(MemStore::new());
    let status = run(&chain, &schedule, &store, &address).await.unwrap();
    let wanted = chain.tip().prev();
    assert_eq!(status.applied, wanted, "{name}: {:?}", status.outcome);
    let hash = chain.app_hash_after(wanted);
    assert_eq!(hex::encode(&status.app_hash), hash, "{name}");
}

#[tokio::test]
async fn chains_of_every_version_are_executed_over_a_socket() {
    synced("v034", Rules::COMET_034, PersistentKvStore::default()).await;
    synced("v037", Rules::COMET_037, PersistentKvStore::default()).await;
    synced("v100", Rules::COMET_100, ParamsKvStore::default()).await;
}

/// Rules whose blocks are those of a made chain, and whose ABCI is this one.
fn rules_of(version: AbciVersion) -> Rules {
    let mut all = Rules::ALL.into_iter();
    all.find(|rules| rules.abci == version).unwrap()
}

#[tokio::test]
async fn an_application_of_another_version_is_named_before_it_commits_anything() {
    use AbciVersion::{V034, V037, V038, V100};
    let mut made = TestChain::builder(5).heights(8).txs(2, 30);
    made = made.change(4, 1, 15);
    let chain = Recorded::of(&made.build());
    for needed in [V034, V037, V038, V100] {
        for found in [V034, V037, V038, V100] {
            let what = format!("{found} where {needed} is needed");
            let (app, store) = (Living::new(true), Arc::new(MemStore::new()));
            let address = listen(found, shared(app.clone())).await;
            let rules = rules_of(needed).into();
            let ended = run(&chain, &rules, &store, &address).await;
            if needed == found {
                let status = ended.unwrap();
                assert_eq!(status.applied, chain.tip().prev(), "{what}: {status:?}");
                continue;
            }
            let (height, said) = halted(ended);
            // These two are told apart by the first change of a validator.
            let late = needed.has_finalize_block() && found.has_finalize_block();
            let at = if late { 4 } else { 1 };
            assert_eq!(height, Height::new(at), "{what}: {said}");
            let run_again = format!("Start the application for height {at} and run again");
            let tells = match (needed, found) {
                (V034, _) => "that of 0.37 or later: the lengths before its answers are plain",
                (_, V034) => "that of 0.34: the lengths before its answers are doubled",
                (V037, _) => "that of 0.38 or later: it does not know BeginBlock",
                (_, V037) => "that of 0.37: it does not know FinalizeBlock",
                (V038, _) => "that of 1.0: its validator updates name the type of a key",
                (V100, _) => "that of 0.38: its validator updates have the older form of a key",
            };
            let needs = format!("need that of {needed}");
            for part in [&run_again, &needs, &address, tells] {
                assert!(said.contains(part), "{what}: {said} lacks {part}");
            }
            assert_eq!(app.commits().len() as u64, at - 1, "{what}");
        }
    }
}

/// Before the rules are known the application is asked, by calls that change nothing.
#[tokio::test]
async fn an_application_is_asked_which_version_it_speaks() {
    use AbciVersion::{V034, V037, V038, V100};
    let told = [
        (V034, vec![V034]),
        (V037, vec![V037]),
        (V038, vec![V038, V100]),
        (V100, vec![V038, V100]),
    ];
    for (version, versions) in told {
        let app = Living::new(true);
        let address = listen(version, shared(app.clone())).await;
        let client = || AbciClient::new(&address).unwrap();
        let height = Height::ZERO;
        let found = client().versions().await.unwrap();
        assert_eq!(found, Spoken { versions, height }, "{version}");
        // A version that is set is not looked for.
        let found = client().speaking(version).versions().await.unwrap();
        assert_eq!(found.versions, [version]);
        assert!(app.commits().is_empty());
    }
}

/// Another application may come back at the same place: nothing is held against it that was found
/// of the one before.
#[tokio::test]
async fn a_new_connection_may_be_to_another_version() {
    use AbciVersion::{V034, V038};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let mut behind = Vec::new();
    for version in [V034, V038] {
        // The first attempt at the application of 0.34 is in the framing of the others.
        let place = listen(version, shared(Living::new(true))).await;
        behind.extend(vec![place; if version == V034 { 2 } else { 1 }]);
    }
    tokio::spawn(async move {
        for place in behind {
            let (mut from, _) = listener.accept().await.unwrap();
            let place = place.strip_prefix("tcp://").unwrap();
            let mut to = TcpStream::connect(place).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let mut client = AbciClient::new(&address).unwrap();
    client.info().await.unwrap();
    assert!(client.reconnect());
    let again = tokio::time::timeout(Duration::from_secs(10), client.info()).await;
    again.expect("an answer in time").unwrap();
}

/// The chain changes its rules in the middle of a run: the application of before is not given a
/// block more, the one of after goes on where it stood.
#[tokio::test]
async fn a_change_of_rules_waits_for_the_other_application() {
    let made = TestChain::builder(6).heights(20).txs(2, 30).build();
    let chain = Recorded::of(&made);
    let rules =
        RuleSchedule::parse("1:comet-0.34,7:comet-0.37,13:comet-0.40,17:comet-1.0").unwrap();
    let (app, store) = (Living::new(true), Arc::new(MemStore::new()));
    let stretches = [
        (AbciVersion::V034, 7),
        (AbciVersion::V037, 13),
        (AbciVersion::V038, 17),
        (AbciVersion::V100, 20),
    ];
    for (version, next) in stretches {
        let address = listen(version, shared(app.clone())).await;
        if next == 20 {
            let status = run(&chain, &rules, &store, &address).await.unwrap();
            assert_eq!(status.applied, chain.tip().prev(), "{status:?}");
            break;
        }
        // The second start with the old application says the same. One of 0.38 can be told from one
        // of 1.0 only while the connection lasts on which it was given a block of 0.38.
        let lives = if next == 17 { 1 } else { 2 };
        for life in 0..lives {
            let (height, said) = halted(run(&chain, &rules, &store, &address).await);
            assert_eq!(height, Height::new(next), "life {life}: {said}");
            let run_again = format!("Start the application for height {next} and run again");
            assert!(said.contains(&run_again), "life {life}: {said}");
            assert_eq!(store.span().unwrap().applied, height.prev());
        }
    }
    let all: Vec<Height> = (1..20).map(Height::new).collect();
    assert_eq!(app.commits(), all, "each block takes effect once");
    let hash = &made.state_after(Height::new(19)).app_hash;
    assert_eq!(store.state().unwrap().unwrap().app_hash, hash);
}
