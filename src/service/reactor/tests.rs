//! The reactor, driven directly: nothing stands behind its channels.

use tokio::sync::broadcast;

use super::*;
use crate::chain::testkit::TestChain;
use crate::fault::{CloseReason, Fault};
use crate::service::Shared;
use crate::service::external::tests::copies;
use crate::service::told::Timed;
use crate::store::MemStore;

/// Nobody makes blocks without a third of the power.
#[test]
fn a_third_of_the_power_is_indispensable() {
    for (powers, expected) in [
        (&[10, 10, 10][..], true),
        (&[10, 10, 11], false),
        (&[10, 10, 9], true),
        (&[10, 1000, 2], false),
        (&[10], true),
    ] {
        let chain = TestChain::builder(3).powers(powers).build();
        let set = &chain.initial.validators;
        let own = set.iter().find(|v| v.power == 10).unwrap();
        let mut config = Config::default();
        assert!(!is_indispensable(&config, &chain.initial));
        config.local_validator = Some(own.address);
        let found = is_indispensable(&config, &chain.initial);
        assert_eq!(found, expected, "{powers:?}");
    }
}

/// A reactor, and the other ends of what it is wired to.
struct Rig {
    reactor: Reactor,
    verifier: mpsc::Receiver<VerifierTask>,
    events: broadcast::Receiver<Timed<Event>>,
}

/// A reactor that begins after a height, over an empty store.
fn rig(chain: &TestChain, height: u64, config: Config) -> Rig {
    let state = chain.state_after(Height::new(height));
    let shared = (Arc::new(chain.genesis.clone()), Arc::new(config));
    let (committed, offload) = (watch::Sender::new(()), Offload::inline());
    let shared = Shared::new(shared, offload, &Arc::new(state.clone()), committed);
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let (served, serving) = watch::channel(shared.served(&*store, state));
    let (to_verifier, verifier) = mpsc::channel(4);
    let events = Told::new(shared.config.clock);
    let heard = events.subscribe();
    let wiring = Wiring {
        config: shared.config.clone(),
        offload: shared.offload.clone(),
        meters: shared.meters.clone(),
        server: shared.server(store.clone(), serving),
        served,
        status: watch::Sender::new(Status::new(state, Phase::Syncing)),
        events,
        requests: mpsc::channel(1).1,
        verifier: to_verifier,
        verdicts: mpsc::channel(1).1,
        jobs: mpsc::channel(1).0,
        executed: mpsc::channel(1).1,
        store,
        committed: shared.committed.subscribe(),
        stop: shared.stop.clone(),
        #[cfg(feature = "record")]
        recorder: None,
    };
    Rig {
        reactor: Reactor::new(wiring, state, Place::Here),
        verifier,
        events: heard,
    }
}

impl Rig {
    fn served(&self) -> (u64, u64) {
        let served = *self.reactor.wiring.served.borrow();
        (served.base.get(), served.height.get())
    }

    /// The bases that were told since the last call.
    fn pruned(&mut self) -> Vec<u64> {
        let mut bases = Vec::new();
        while let Ok(timed) = self.events.try_recv() {
            if let Event::Pruned { below } = timed.event {
                bases.push(below.get());
            }
        }
        bases
    }

    /// A connection whose task does nothing.
    fn connect(&mut self, n: u64) -> mpsc::Receiver<Command> {
        let (commands, inbox) = mpsc::channel(8);
        let conn = Conn {
            peer: PeerId([n as u8; 20]),
            address: format!("peer {n}"),
            commands,
            hangup: CancellationToken::new(),
            claim: Height::ZERO,
        };
        self.reactor.conns.insert(ConnId(n), conn);
        inbox
    }
}

#[tokio::test]
async fn a_verifier_that_is_gone_ends_the_service() {
    let chain = TestChain::builder(1).heights(3).build();
    let mut rig = rig(&chain, 0, Config::default());
    let copy = copies(&chain, 3, 3).remove(0);
    rig.reactor
        .verify(VerifierTask::Claim { copy: copy.clone() });
    assert!(rig.verifier.try_recv().is_ok());
    assert!(!rig.reactor.wiring.stop.is_cancelled());
    drop(rig.verifier);
    rig.reactor.verify(VerifierTask::Claim { copy });
    assert!(rig.reactor.wiring.stop.is_cancelled());
}

/// After a state sync there is a state without blocks: they are served once there are some.
#[tokio::test]
async fn blocks_are_served_from_the_first_that_is_stored() {
    let chain = TestChain::builder(2).heights(9).build();
    let mut rig = rig(&chain, 5, Config::default());
    let state = |height| chain.state_after(Height::new(height));
    rig.reactor.serve(state(5), None);
    assert_eq!(rig.served(), (0, 0));
    rig.reactor.serve(state(6), None);
    assert_eq!(rig.served(), (6, 6));
    assert!(rig.pruned().is_empty(), "nothing was there before");
    rig.reactor.serve(state(8), Some(Height::new(7)));
    assert_eq!((rig.served(), rig.pruned()), ((7, 8), vec![7]));
    rig.reactor.serve(state(9), Some(Height::new(7)));
    assert_eq!((rig.served(), rig.pruned()), ((7, 9), vec![]));
}

#[tokio::test]
async fn the_base_rises_as_blocks_are_pruned() {
    let chain = TestChain::builder(3).heights(9).build();
    let mut rig = rig(&chain, 0, Config::default());
    let pruned = |below| Some(ExecEvent::Pruned(Height::new(below)));
    rig.reactor.executed(pruned(3));
    assert_eq!((rig.served(), rig.pruned()), ((0, 0), vec![]));
    rig.reactor.serve(chain.state(), None);
    for (below, base, told) in [
        (4, 4, vec![4]),
        (4, 4, vec![]),
        (2, 4, vec![]),
        (6, 6, vec![6]),
    ] {
        rig.reactor.executed(pruned(below));
        assert_eq!((rig.served(), rig.pruned()), ((base, 9), told), "{below}");
    }
}

#[tokio::test]
async fn applied_blocks_are_kept_for_peers_and_the_others_wait() {
    let chain = TestChain::builder(4).heights(5).build();
    let mut rig = rig(&chain, 0, Config::default());
    let records = copies(&chain, 1, 5).into_iter();
    rig.reactor.applying = records.map(|copy| record_of(&copy.block)).collect();
    let state = Arc::new(chain.state_after(Height::new(2)).clone());
    let pruned_to = None;
    rig.reactor
        .executed(Some(ExecEvent::Applied { state, pruned_to }));
    let left: Vec<u64> = rig
        .reactor
        .applying
        .iter()
        .map(|r| r.height.get())
        .collect();
    assert_eq!(left, [3, 4, 5]);
    assert_eq!(rig.served(), (1, 2));
}

#[tokio::test]
async fn nodes_are_told_of_us_when_we_are_not_behind_any_more() {
    let chain = TestChain::builder(5).heights(1).build();
    for while_behind in [false, true] {
        let mut config = Config::default();
        config.serve.while_behind = while_behind;
        let mut rig = rig(&chain, 0, config);
        let mut inbox = rig.connect(1);
        let mut set = |behind: bool| {
            rig.reactor.set_behind(behind);
            let told = std::iter::from_fn(|| inbox.try_recv().ok()).count();
            (rig.reactor.wiring.served.borrow().behind, told)
        };
        // It begins behind, unless that makes no difference.
        let told = usize::from(!while_behind);
        assert_eq!(set(true), (!while_behind, 0));
        assert_eq!(set(false), (false, told));
        assert_eq!(set(false), (false, 0), "once");
        assert_eq!(set(true), (!while_behind, 0));
        assert_eq!(set(false), (false, told));
    }
}

#[tokio::test]
async fn the_configured_peers_are_those_of_the_first_transport_that_has_some() {
    let chain = TestChain::builder(6).heights(1).build();
    let mut rig = rig(&chain, 0, Config::default());
    let mut links = Vec::new();
    for n in [1, 2, 3] {
        let peer = PeerId([n; 20]);
        let (mut link, end) = Link::pair(peer, "here");
        let lists = watch::Sender::new(Configured::new([peer].into(), [peer].into()));
        // The first transport has no list.
        link.configured = (n > 1).then(|| lists.subscribe());
        rig.reactor.add_peer(link);
        links.push((end, lists));
        let known = rig.reactor.configured.as_ref();
        let known = known.map(|list| list.borrow().peers.clone());
        assert_eq!(known, (n > 1).then(|| [PeerId([2; 20])].into()), "{n}");
    }
}

#[tokio::test]
async fn so_many_addresses_of_those_who_have_gone_are_remembered() {
    let chain = TestChain::builder(7).heights(1).build();
    let mut rig = rig(&chain, 0, Config::default());
    let many = DEPARTED as u64 + 44;
    for n in 0..many {
        drop(rig.connect(n));
        rig.reactor.forget(ConnId(n));
    }
    let first = rig.reactor.departed.front().map(|(conn, _)| conn.0);
    assert_eq!((rig.reactor.departed.len(), first), (DEPARTED, Some(44)));
    let last = rig.reactor.departed.back().unwrap();
    assert_eq!(last.1, format!("peer {}", many - 1));
}

/// A state that others have brought about is where block sync begins; its blocks are not there.
#[tokio::test]
async fn a_state_that_is_brought_is_where_we_begin() {
    let chain = TestChain::builder(8).heights(9).build();
    for (why, begins) in [(SyncStart::Start, 7), (SyncStart::Resumed, 0)] {
        let mut rig = rig(&chain, 0, Config::default());
        let (done, _) = oneshot::channel();
        rig.reactor.request(Request::Detach(done));
        let (jobs, _waiting) = mpsc::channel(1);
        let resume = Request::Resume {
            jobs,
            events: mpsc::channel(1).1,
            state: Arc::new(chain.state_after(Height::new(7)).clone()),
            trust: None,
            why,
        };
        rig.reactor.request(resume);
        assert_eq!(rig.served(), (0, 0), "no block of it is stored");
        let status = rig.reactor.wiring.status.borrow().clone();
        assert_eq!(status.applied, Height::new(7));
        assert_eq!(status.started_at, Height::new(begins));
        rig.reactor.serve(chain.state_after(Height::new(8)), None);
        assert_eq!(rig.served(), (8, 8));
    }
}

#[tokio::test]
async fn a_ban_reaches_each_transport_once() {
    let chain = TestChain::builder(9).heights(1).build();
    let mut rig = rig(&chain, 0, Config::default());
    let tables = [Bans::default(), Bans::default()];
    let mut ends = Vec::new();
    for (n, table) in [(1, 0), (2, 0), (3, 1)] {
        let (mut link, end) = Link::pair(PeerId([n; 20]), "here");
        link.bans = Some(tables[table].clone());
        rig.reactor.add_peer(link);
        ends.push(end);
    }
    assert_eq!(rig.reactor.tables.len(), 2);
    let (peer, until) = (PeerId([1; 20]), Some(Tick(60_000_000)));
    let reason = CloseReason::Fault(Fault::Unasked);
    rig.reactor.drop_peer(ConnId(0), peer, reason, until);
    assert!(tables.iter().all(|table| table.until(peer).is_some()));
}

#[tokio::test]
async fn requests_are_remembered_for_as_long_as_they_may_be_taken_back() {
    let chain = TestChain::builder(11).heights(1).build();
    let mut rig = rig(&chain, 0, Config::default());
    let mut inbox = rig.connect(1);
    let (conn, from) = (ConnId(1), Height::new(1));
    for n in 1..=3 {
        rig.reactor.perform(Effect::Ask {
            ask: AskId(n),
            conn,
            from,
            count: 1,
            ranged: false,
        });
    }
    for n in 1..=3 {
        rig.reactor.perform(Effect::Cancel { ask: AskId(n) });
    }
    let orders: Vec<_> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
    let cancels = orders.iter().filter(|o| matches!(o, Command::Cancel(_)));
    assert_eq!((orders.len(), cancels.count()), (6, 3));
}

#[tokio::test]
async fn a_verdict_that_proves_nothing_new_is_not_told() {
    let chain = TestChain::builder(12).heights(1).build();
    let mut rig = rig(&chain, 0, Config::default());
    let verdict = crate::pool::Verdict::default();
    let run = crate::pool::RunId(7);
    rig.reactor.feed(Input::Verdict { run, verdict });
    while let Ok(timed) = rig.events.try_recv() {
        assert!(
            !matches!(timed.event, Event::BlocksProven { .. }),
            "{timed:?}"
        );
    }
}

#[tokio::test]
async fn having_caught_up_it_follows_or_hands_over() {
    let chain = TestChain::builder(13).heights(1).build();
    for (after, phase) in [
        (AfterCaughtUp::Follow, Phase::Following),
        (AfterCaughtUp::HandOver, Phase::HandedOver),
    ] {
        let config = Config {
            after,
            ..Config::default()
        };
        let mut rig = rig(&chain, 0, config);
        let height = Height::ZERO;
        rig.reactor.outcome(Outcome::CaughtUp { height });
        assert_eq!(rig.reactor.wiring.status.borrow().phase, phase);
    }
}

#[tokio::test]
async fn a_snapshot_shows_the_peers_and_the_budget() {
    let chain = TestChain::builder(14).heights(1).build();
    let mut config = Config::default();
    config.pool.budget_bytes = 12_345_678;
    let mut rig = rig(&chain, 0, config);
    let _inbox = rig.connect(5);
    let (conn, peer) = (ConnId(5), PeerId([5; 20]));
    rig.reactor.feed(Input::Up { conn, peer });
    let snapshot = rig.reactor.snapshot();
    assert_eq!(snapshot.budget_bytes, 12_345_678);
    let peers: Vec<_> = snapshot
        .peers
        .iter()
        .map(|p| (p.peer, &*p.address))
        .collect();
    assert_eq!(peers, [(peer, "peer 5")]);
}
