//! Peers by script: what each sends of itself, how it answers, and that it comes back when its
//! connection has ended.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocksync::app::App;
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::service::Handle;
use blocksync::wire::message::Kind;
use blocksync::wire::{Message, guard};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use blocksync_testkit::peers::alter;
use blocksync_testkit::recorded::{Recorded, id, wrap};

/// A peer's time for one answer.
const SERVICE: Duration = Duration::from_millis(5);

/// Requests to the peers with their times: the effects of the service, as seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Mutex<String>>, Instant);

impl Log {
    pub(crate) fn new() -> Self {
        Log(Arc::default(), Instant::now())
    }

    pub(crate) fn line(&self, what: &str) {
        let at = self.1.elapsed().as_micros();
        let mut log = self.0.lock().unwrap();
        log.push_str(&format!("{at} {what}\n"));
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// Reaction of a peer to a request.
pub(crate) enum Answer {
    /// Sends this.
    Message(Bytes),
    /// Sends this after a time.
    Late(Duration, Bytes),
    /// Keeps quiet.
    Nothing,
    /// Sends a byte each second and never ends.
    Drips,
}

type Answers = dyn Fn(Height) -> Answer + Send + Sync;

/// A peer's behaviour.
#[derive(Clone)]
pub(crate) struct Script {
    pub name: &'static str,
    /// The height that it says it has.
    claim: Height,
    base: Height,
    max_range: u32,
    answers: Arc<Answers>,
    /// Sent right after the first status.
    greeting: Option<Bytes>,
    /// Hangs up after this time.
    up: Option<Duration>,
    /// Does not come back when it has hung up.
    leaves: bool,
    says_nothing: bool,
    /// Sent over and over beside everything else.
    flood: Vec<Bytes>,
}

fn no_block(height: Height) -> Bytes {
    Message::NoBlock { height }.encode()
}

impl Script {
    pub(crate) fn new(
        name: &'static str,
        chain: &Arc<Recorded>,
        answers: impl Fn(Height) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Script {
            name,
            claim: chain.tip(),
            base: chain.initial,
            max_range: 1,
            answers: Arc::new(answers),
            greeting: None,
            up: None,
            leaves: false,
            says_nothing: false,
            flood: Vec::new(),
        }
    }

    pub(crate) fn honest(chain: &Arc<Recorded>) -> Self {
        Self::altering("honest", chain, |_, honest| Some(honest))
    }

    /// A node of ours: with its highest block it sends the commit for it.
    pub(crate) fn own_kind(chain: &Arc<Recorded>) -> Self {
        let served = chain.clone();
        let mut script = Self::new("own kind", chain, move |height| {
            Answer::Message(served.message(height, true).unwrap_or(no_block(height)))
        });
        script.max_range = 64;
        script
    }

    /// Serves what `alter` makes of each block's response.
    pub(crate) fn altering(
        name: &'static str,
        chain: &Arc<Recorded>,
        alter: impl Fn(Height, Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        let served = chain.clone();
        Self::new(name, chain, move |height| match served.response(height) {
            None => Answer::Message(no_block(height)),
            Some(body) => match alter(height, body.clone()) {
                Some(body) => Answer::Message(wrap(&body)),
                None => Answer::Nothing,
            },
        })
    }

    pub(crate) fn silent(chain: &Arc<Recorded>) -> Self {
        Self::new("silent", chain, |_| Answer::Nothing)
    }

    pub(crate) fn drips(chain: &Arc<Recorded>) -> Self {
        Self::new("slow drip", chain, |_| Answer::Drips)
    }

    pub(crate) fn wrong_body(chain: &Arc<Recorded>) -> Self {
        Self::altering("wrong body", chain, |_, body| {
            Some(alter::transaction(&body).into())
        })
    }

    /// Has the first block alone, with a wrong body.
    pub(crate) fn wrong_first(chain: &Arc<Recorded>) -> Self {
        let mut script = Self::wrong_body(chain);
        (script.name, script.claim) = ("wrong first block", chain.initial);
        script
    }

    pub(crate) fn other_height(chain: &Arc<Recorded>) -> Self {
        let served = chain.clone();
        Self::new("other height", chain, move |height| {
            match served.message(height.next(), false) {
                Some(other) => Answer::Message(other),
                None => Answer::Nothing,
            }
        })
    }

    /// Serves another chain's blocks as this one's.
    pub(crate) fn other_chain(name: &'static str, other: &Arc<Recorded>) -> Self {
        Self::altering(name, other, |_, body| Some(body))
    }

    pub(crate) fn no_blocks(chain: &Arc<Recorded>) -> Self {
        Self::new("no block for everything", chain, |height| {
            Answer::Message(no_block(height))
        })
    }

    pub(crate) fn without_extensions(chain: &Arc<Recorded>) -> Self {
        Self::altering("no extended commits", chain, |_, body| {
            Some(alter::without_extensions(&body).into())
        })
    }

    pub(crate) fn bad_extensions(chain: &Arc<Recorded>) -> Self {
        Self::altering("altered extended commits", chain, |_, body| {
            Some(alter::extension(&body).into())
        })
    }

    pub(crate) fn late(chain: &Arc<Recorded>, by: Duration) -> Self {
        let served = chain.clone();
        Self::new("late", chain, move |height| {
            match served.message(height, false) {
                Some(message) => Answer::Late(by, message),
                None => Answer::Message(no_block(height)),
            }
        })
    }

    pub(crate) fn unasked(chain: &Arc<Recorded>) -> Self {
        let mut script = Self::honest(chain);
        script.name = "unasked blocks";
        script.greeting = chain.message(chain.tip(), false);
        script
    }

    pub(crate) fn garbage(chain: &Arc<Recorded>) -> Self {
        let mut script = Self::honest(chain);
        script.name = "garbage";
        script.greeting = Some(Bytes::from_static(b"\xff\xff\xff\xff no message"));
        script
    }

    /// Claims a height and never answers.
    pub(crate) fn claims(chain: &Arc<Recorded>, height: u64) -> Self {
        let mut script = Self::silent(chain);
        script.name = "high claim";
        script.claim = Height::new(height);
        script
    }

    /// Claims a height and serves what it has.
    pub(crate) fn claims_and_serves(chain: &Arc<Recorded>, height: u64) -> Self {
        let mut script = Self::honest(chain);
        script.name = "high claim, serving";
        script.claim = Height::new(height);
        script
    }

    pub(crate) fn flaps(chain: &Arc<Recorded>, up: Duration) -> Self {
        let mut script = Self::honest(chain);
        script.name = "flapping";
        script.up = Some(up);
        script
    }

    /// Says that it has this range, and serves what it has.
    pub(crate) fn says(name: &'static str, chain: &Arc<Recorded>, base: u64, height: u64) -> Self {
        let mut script = Self::honest(chain);
        (script.name, script.base, script.claim) = (name, Height::new(base), Height::new(height));
        script
    }

    /// Hangs up after this time, and comes back.
    pub(crate) fn hanging_up(mut self, after: Duration) -> Self {
        self.up = Some(after);
        self
    }

    /// Hangs up after this time, and stays away.
    pub(crate) fn leaving(mut self, after: Duration) -> Self {
        (self.up, self.leaves) = (Some(after), true);
        self
    }

    /// Whether it says that it has less than this.
    pub(crate) fn claims_less(&self, than: Height) -> bool {
        self.claim < than
    }

    /// Honest, but says and asks everything it can, without end.
    pub(crate) fn floods(name: &'static str, chain: &Arc<Recorded>, with: Vec<Message>) -> Self {
        let mut script = Self::honest(chain);
        script.name = name;
        script.flood = with.iter().map(Message::encode).collect();
        script
    }

    /// Has the heights from `base` up only, and says so.
    pub(crate) fn pruned(chain: &Arc<Recorded>, base: u64) -> Self {
        let served = chain.clone();
        let mut script = Self::new("pruned", chain, move |height| {
            let message = served.message(height, false);
            let there = message.filter(|_| height.get() >= base);
            Answer::Message(there.unwrap_or(no_block(height)))
        });
        script.base = Height::new(base);
        script
    }

    /// Never says anything.
    pub(crate) fn mute(chain: &Arc<Recorded>) -> Self {
        let mut script = Self::silent(chain);
        (script.name, script.says_nothing) = ("mute", true);
        script
    }

    fn status(&self) -> Bytes {
        Message::Status {
            height: self.claim,
            base: self.base,
            max_range: self.max_range,
        }
        .encode()
    }
}

/// Connects the peer, and connects it again whenever its connection has ended, unless it leaves.
pub(crate) fn keep<A: App>(handle: &Handle<A>, n: u8, script: Script, log: &Log) {
    let (peers, log) = (handle.peers(), log.clone());
    tokio::spawn(async move {
        loop {
            let (link, end) = Link::pair(id(n), script.name);
            if peers.add(link).await.is_err() {
                return;
            }
            let up = script.up.unwrap_or(Duration::MAX);
            let hangup = end.hangup.clone();
            let inbox = end.inbox.clone();
            let served = tokio::time::timeout(up, serve(end, n, &script, &log)).await;
            if served.is_err() {
                let closed = Inbound::Closed("gone".into());
                tokio::select! {
                    biased;
                    () = hangup.cancelled() => {}
                    _ = inbox.send(closed) => hangup.cancelled().await,
                }
            }
            if script.leaves {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

async fn send(end: &LinkEnd, what: Inbound) -> Result<(), ()> {
    tokio::select! {
        biased;
        () = end.hangup.cancelled() => Err(()),
        sent = end.inbox.send(what) => sent.map_err(|_| ()),
    }
}

/// A thousand messages each millisecond, as long as somebody takes them.
async fn flood(inbox: mpsc::Sender<Inbound>, hangup: CancellationToken, with: Vec<Bytes>) {
    let mut messages = with.into_iter().cycle();
    loop {
        for message in messages.by_ref().take(1000) {
            tokio::select! {
                biased;
                () = hangup.cancelled() => return,
                sent = inbox.send(Inbound::Message(message)) => if sent.is_err() { return },
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn serve(mut end: LinkEnd, n: u8, script: &Script, log: &Log) -> Result<(), ()> {
    if script.says_nothing {
        end.hangup.cancelled().await;
        return Err(());
    }
    send(&end, Inbound::Message(script.status())).await?;
    if let Some(greeting) = script.greeting.clone() {
        send(&end, Inbound::Message(greeting)).await?;
    }
    if !script.flood.is_empty() {
        tokio::spawn(flood(
            end.inbox.clone(),
            end.hangup.clone(),
            script.flood.clone(),
        ));
    }
    loop {
        let request = tokio::select! {
            biased;
            () = end.hangup.cancelled() => return Err(()),
            request = end.outbox.recv() => request.ok_or(())?,
        };
        if guard::peek(&request).map(|p| p.kind) == Ok(Kind::Block) {
            continue;
        }
        let message = Message::decode_small(&request).map_err(|_| ())?;
        log.line(&format!("{n} {} <- {message:?}", script.name));
        match message {
            Message::StatusRequest => send(&end, Inbound::Message(script.status())).await?,
            Message::BlockRequest { height, count } => {
                for n in 0..u64::from(count.max(1)) {
                    tokio::time::sleep(SERVICE).await;
                    answer(&end, (script.answers)(height.plus(n))).await?;
                }
            }
            _ => {}
        }
    }
}

async fn answer(end: &LinkEnd, answer: Answer) -> Result<(), ()> {
    match answer {
        Answer::Nothing => Ok(()),
        Answer::Message(message) => send(end, Inbound::Message(message)).await,
        Answer::Late(by, message) => {
            // Others wait behind it as on any connection, but not each for its own delay.
            let (inbox, hangup) = (end.inbox.clone(), end.hangup.clone());
            tokio::spawn(async move {
                tokio::time::sleep(by).await;
                tokio::select! {
                    biased;
                    () = hangup.cancelled() => {}
                    _ = inbox.send(Inbound::Message(message)) => {}
                }
            });
            Ok(())
        }
        Answer::Drips => {
            let mut bytes = 0;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                bytes += 1;
                send(end, Inbound::Progress(bytes)).await?;
            }
        }
    }
}
