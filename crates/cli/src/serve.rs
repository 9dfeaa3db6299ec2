//! `blocksync serve`: answers others from the store, and asks nobody. The store is opened for
//! reading, so that it also works beside a process that writes to it.

use std::sync::Arc;
use std::time::Duration;

use blocksync::ids::{Height, PeerId};
use blocksync::link::{Allowance, Inbound, Link};
use blocksync::p2p::Switch;
use blocksync::service::{
    Advertiser, Advertising, Config, Heard, Request, SMALL_MESSAGES, SMALL_MESSAGES_RATE, Served,
    Server, UNASKED_BYTES,
};
use blocksync::store::{Span, Store};
use blocksync::wire::message::Kind;
use blocksync::wire::{ChainIdentity, Message, guard};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::Serve;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::http;
use crate::node;
use crate::notify;
use crate::signals;
use crate::sync::announce;
use crate::values::all;

/// How often we look whether another process has added blocks.
const LOOK: Duration = Duration::from_secs(1);
/// Links that wait to be answered.
const LINKS: usize = 16;

/// Serves until a signal.
///
/// # Errors
/// When there is no store, or an address cannot be listened at.
pub(crate) async fn run(args: Serve) -> Result<Exit, Failure> {
    let nowhere = all(&args.network.listen).is_empty() && all(&args.peer).is_empty();
    if nowhere && args.http.http.is_none() {
        return Err(Failure::usage(
            "nowhere to listen: give --listen comet://IP:PORT or plain://IP:PORT, --peer, or --http",
        ));
    }
    let stop = signals::stop_token()?;
    let home = Home::at(&args.home.home);
    let (genesis, rules) = home.genesis_by(args.rules.as_ref())?;
    let store: Arc<dyn Store> = Arc::new(home.open_to_read()?);
    let mut network = node::switch_config(&args.network, &args.peer, &home, &genesis.chain_id)?;
    // A node of CometBFT 1.0 is no peer for a chain whose rules never come to that version.
    network.allow_v1 = node::are_of_v1(&rules);
    let (served, serving) = watch::channel(served(store.span()?));
    let offload = node::offload(args.machine)?;
    let (chain, mut config) = (ChainIdentity::of(&genesis), Config::default());
    config.rules = rules.clone();
    let advertiser = Advertiser::new(home.node_key()?.signer(), chain.clone(), &config);
    let server = Server::new(
        store.clone(),
        serving.clone(),
        node::serve_config(&args.network),
        offload,
    )
    .on(chain)
    .signing(Some(advertiser));

    let off = CancellationToken::new();
    let (links, come) = mpsc::channel(LINKS);
    let switch = Switch::start(network, links, off.clone())
        .await
        .map_err(|e| Failure::failed(e.to_string()))?;
    let Served { base, height, .. } = *serving.borrow();
    say(&format!(
        "chain {}: serving blocks {base} to {height}",
        genesis.chain_id
    ));
    announce(&switch);
    let shown = http::Shown {
        home: &home,
        store: store.clone(),
        moniker: &args.network.moniker,
        rules,
        keeps_results: store.results_at(height)?.is_some(),
        view: None,
        switch: &switch,
        serving: server.counters().clone(),
    };
    let http = http::start(&args.http, shown)?;
    notify::ready();
    let line = |served: &Served| format!("serving blocks {} to {}", served.base, served.height);
    tokio::spawn(notify::keep_telling(serving, line));
    // `serve` never writes, so a process beside it that syncs is the only source of new blocks.
    tokio::spawn(follow(store, served));
    tokio::spawn(answer_all(come, server));
    stop.cancelled().await;
    notify::stopping();
    drop(http);
    off.cancel();
    switch.stopped().await;
    Ok(Exit::Reached)
}

/// Heights of a store that may be served.
pub(crate) fn served(span: Span) -> Served {
    // Nothing executed yet: 0 and 0, an empty store (`protocol.md` 4.2).
    if span.base == Height::ZERO || span.applied < span.base {
        return Served::default();
    }
    // Blocks that are stored above are served once they are executed (`design.md` 6).
    Served {
        base: span.base,
        height: span.applied,
        behind: false,
    }
}

/// Serves what another process adds to the store, or prunes.
async fn follow(store: Arc<dyn Store>, to: watch::Sender<Served>) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.span()).await {
            Ok(Ok(span)) => {
                to.send_if_modified(|now| {
                    let news = served(span);
                    std::mem::replace(now, news) != news
                });
            }
            // Said and tried again: what was served before is still there.
            Ok(Err(error)) => warn!(%error, "the store cannot be read"),
            Err(_) => return,
        }
    }
}

/// Answers every peer that comes.
pub(crate) async fn answer_all(mut come: mpsc::Receiver<Link>, server: Server) {
    while let Some(link) = come.recv().await {
        info!(peer = %link.peer, address = %link.address, "peer connected");
        tokio::spawn(answer(link, server.clone()));
    }
}

/// Answers one peer until it is gone, or sends what nobody asked for.
async fn answer(mut link: Link, server: Server) {
    let (requests, waiting) = mpsc::channel(server.queue_len());
    let (lane, outbox) = (server.lane(link.peer), link.outbox.clone());
    let serving = server
        .clone()
        .serve(lane, waiting, outbox, link.hangup.clone());
    let serving = tokio::spawn(serving);
    let hangup = link.hangup.clone();
    let why = tokio::select! {
        biased;
        () = hangup.cancelled() => "hung up".to_owned(),
        why = listen(&mut link, &server, &requests) => why,
    };
    // However the listening ended, the task that writes must end as well.
    hangup.cancel();
    let _ = serving.await;
    info!(peer = %link.peer, address = %link.address, why, "peer gone");
}

/// The answer to a message.
enum Answer {
    /// Nothing, or what the queue answers.
    Queued,
    /// Nothing; a peer that floods us with such is closed.
    Nothing,
    /// Our status; a peer that floods us with requests for it is closed.
    Status,
    /// "No block", from this height on for a number of heights: the queue is full.
    NoBlocks(Height, u64),
}

/// Takes requests until there are no more, and gives the reason.
async fn listen(link: &mut Link, server: &Server, requests: &mpsc::Sender<Request>) -> String {
    const GONE: &str = "the transport ended";
    let mut allowance = Allowance::new(SMALL_MESSAGES, SMALL_MESSAGES_RATE);
    let (extended, mut signed) = (link.extended, Advertising::new(link, server));
    if link
        .outbox
        .send(signed.status(server, extended))
        .await
        .is_err()
    {
        return GONE.to_owned();
    }
    let mut news = News::of(server);
    loop {
        let heard = tokio::select! {
            heard = link.inbox.recv() => heard,
            () = news.due() => {
                if link.outbox.send(signed.status(server, extended)).await.is_err() {
                    return GONE.to_owned();
                }
                continue;
            }
        };
        let answer = match &heard {
            Some(Inbound::Message(message)) => {
                match judge(message, server, (link.peer, requests)) {
                    Ok(answer) => answer,
                    Err(why) => return why,
                }
            }
            Some(Inbound::Progress(bytes)) if *bytes >= UNASKED_BYTES => {
                return format!("it sends {bytes} bytes that it was not asked for");
            }
            Some(Inbound::Closed(why) | Inbound::Broken(why)) => return why.clone(),
            Some(_) => Answer::Queued,
            None => return GONE.to_owned(),
        };
        if matches!(answer, Answer::Nothing | Answer::Status) && !allowance.take() {
            return "it floods us with statuses and requests for ours".to_owned();
        }
        if let (Answer::Status, Some(Inbound::Message(message))) = (&answer, &heard)
            && let Err(why) = signed.hear_request(server, message).await
        {
            return why.to_string();
        }
        let (status, from, count) = match answer {
            Answer::Queued | Answer::Nothing => continue,
            Answer::Status => (Some(signed.status(server, extended)), Height::ZERO, 0),
            Answer::NoBlocks(from, count) => (None, from, count),
        };
        let none = |n| {
            Message::NoBlock {
                height: from.plus(n),
            }
            .encode()
        };
        for answer in status.into_iter().chain((0..count).map(none)) {
            if link.outbox.send(answer).await.is_err() {
                return GONE.to_owned();
            }
        }
    }
}

/// Changes of what is served that a peer has not been told of.
struct News {
    served: watch::Receiver<Served>,
    every: Duration,
    told: Instant,
}

impl News {
    /// From now on: the peer was just told.
    fn of(server: &Server) -> Self {
        let (mut served, every) = server.news();
        served.mark_unchanged();
        News {
            served,
            every,
            told: Instant::now(),
        }
    }

    /// Waits until there is something to tell, and time to do so. Cancel safe.
    async fn due(&mut self) {
        tokio::time::sleep_until(self.told + self.every).await;
        if self.served.changed().await.is_err() {
            // Nobody will change it any more: the connection ends by other means.
            std::future::pending::<()>().await;
        }
        self.told = Instant::now();
    }
}

/// Answers at once. A request goes into the peer's queue; a height that the queue does not hold is
/// not there for this peer.
fn judge(
    message: &Bytes,
    server: &Server,
    (peer, requests): (PeerId, &mpsc::Sender<Request>),
) -> Result<Answer, String> {
    let peeked = guard::peek(message).map_err(|e| e.to_string())?;
    if peeked.kind == Kind::Block {
        return Err("it sent a block that it was not asked for".to_owned());
    }
    if let Heard::Another(why) = server.hear_chain(message).map_err(|e| e.to_string())? {
        return Err(why);
    }
    match Message::decode_small(message).map_err(|e| e.to_string())? {
        Message::StatusRequest => Ok(Answer::Status),
        Message::BlockRequest {
            height: from,
            count,
        } => {
            let request = Request { from, count };
            match server.take(peer, request, requests) {
                Ok(()) => Ok(Answer::Queued),
                Err(heights) => Ok(Answer::NoBlocks(from, heights)),
            }
        }
        // Statuses and "no block": of no use to a server, and no fault.
        _ => Ok(Answer::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use blocksync::service::{Offload, ServeConfig};
    use blocksync::store::MemStore;

    use super::*;

    /// A server of nothing with room for one request, and a peer's link.
    fn server() -> (
        Server,
        watch::Sender<Served>,
        Link,
        blocksync::link::LinkEnd,
    ) {
        let (served, serving) = watch::channel(Served::default());
        let mut config = ServeConfig::default();
        config.queue = 1;
        let store = Arc::new(MemStore::new());
        let server = Server::new(store, serving, config, Offload::inline());
        let (link, end) = Link::pair(PeerId([7; 20]), "a peer");
        (server, served, link, end)
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_in_the_queue_is_answered_at_once() {
        let (server, _served, mut link, mut end) = server();
        // Nobody takes requests out of the queue.
        let (requests, _queue) = mpsc::channel(server.queue_len());
        let ask = |from, count| {
            let height = Height::new(from);
            Inbound::Message(Message::BlockRequest { height, count }.encode())
        };
        for message in [ask(5, 1), ask(20, 3), ask(30, 0)] {
            end.inbox.send(message).await.unwrap();
        }
        let status = Inbound::Message(Message::StatusRequest.encode());
        end.inbox.send(status).await.unwrap();
        drop(end.inbox);
        assert_eq!(
            listen(&mut link, &server, &requests).await,
            "the transport ended"
        );
        let mut said = Vec::new();
        while let Ok(message) = end.outbox.try_recv() {
            said.push(match Message::decode(&message).unwrap() {
                Message::NoBlock { height } => height.get(),
                Message::Status { .. } => 0,
                other => panic!("{other:?}"),
            });
        }
        // Our status first and last; the first request waits.
        assert_eq!(said, [0, 20, 21, 22, 30, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_breaks_the_rules_is_left_with_the_reason() {
        let flood = || vec![Inbound::Message(Message::StatusRequest.encode()); 2000];
        let cases = [
            (vec![Inbound::Progress(UNASKED_BYTES)], "was not asked for"),
            (vec![Inbound::Broken("bits".into())], "bits"),
            (flood(), "floods us"),
        ];
        for (messages, expected) in cases {
            let (server, _served, mut link, mut end) = server();
            let (requests, _queue) = mpsc::channel(server.queue_len());
            tokio::spawn(async move {
                for message in messages {
                    if end.inbox.send(message).await.is_err() {
                        break;
                    }
                    while end.outbox.try_recv().is_ok() {}
                }
                std::future::pending::<()>().await;
            });
            let why = listen(&mut link, &server, &requests).await;
            assert!(why.contains(expected), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_to_a_peer_that_says_nothing() {
        let (server, served, mut link, mut end) = server();
        let (requests, _queue) = mpsc::channel(server.queue_len());
        let listening = tokio::spawn(async move { listen(&mut link, &server, &requests).await });
        end.outbox.recv().await.unwrap();
        served.send_modify(|s| {
            s.base = Height::new(2);
            s.height = Height::new(9);
        });
        let told = Message::decode(&end.outbox.recv().await.unwrap()).unwrap();
        assert!(matches!(told, Message::Status { base, height, .. }
            if (base.get(), height.get()) == (2, 9)));
        drop(end.inbox);
        listening.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_told_no_oftener_than_is_set_and_the_last_one_always() {
        let (served, mut watch) = watch::channel(Served::default());
        watch.mark_unchanged();
        let (begun, every) = (Instant::now(), Duration::from_secs(3));
        let mut news = News {
            served: watch,
            every,
            told: begun,
        };
        let grow = tokio::spawn(async move {
            for height in 1..=20 {
                served.send_modify(|s| s.height = Height::new(height));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            std::future::pending::<()>().await;
        });
        let mut times = Vec::new();
        while tokio::time::timeout(every * 4, news.due()).await.is_ok() {
            times.push(begun.elapsed().as_secs());
            // A message in between starts the wait anew, and nothing is lost.
            let _ = tokio::time::timeout(Duration::from_secs(1), news.due()).await;
        }
        assert_eq!(times, [3, 6, 9, 12], "20 changes within 10 s");
        grow.abort();
    }
}
