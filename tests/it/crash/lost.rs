//! The application goes and comes: its connection is lost at any call, and it comes back as it was,
//! restarted, older, or not at all.

use std::sync::Arc;
use std::time::Duration;

use blocksync::app::{App, AppError, AppInfo, InitChain, InitChainResponse};
use blocksync::chain::{FinalizeBlock, FinalizeResponse};
use blocksync::pool::{LocalFault, Outcome};
use blocksync::service::{BlockSync, StartError};
use blocksync::store::{MemStore, Store};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Case, DELAY, GUARD, Height};
use blocksync_testkit::baseapp::Living;
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::config;

/// When a connection is lost, counted in calls over the application's life, and whether the call
/// was still carried out.
#[derive(Clone, Copy, Debug)]
struct Loss {
    call: u64,
    carried_out: bool,
}

/// In what state the application comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    /// As it was: only the connection was lost.
    Same,
    /// Its process has ended and begun again.
    Restarted,
    /// From a copy that is some heights older.
    Older,
    /// Before its first block.
    Empty,
    /// Never.
    Gone,
}

struct Flaky {
    app: Living,
    /// Copies of it after each height.
    copies: Vec<Living>,
    loss: Loss,
    back: Back,
    calls: u64,
    connected: bool,
    /// Attempts to reach it before it is there again.
    deaf: u32,
}

impl Flaky {
    fn new(app: &Living, loss: Loss, back: Back) -> Self {
        Flaky {
            app: app.clone(),
            copies: vec![app.fork()],
            loss,
            back,
            calls: 0,
            connected: true,
            deaf: 0,
        }
    }

    fn lost() -> AppError {
        AppError::Connection("test://app".into(), "it hung up".into())
    }

    /// Whether this call is the one; then the application is as it comes back.
    fn loses(&mut self) -> bool {
        self.calls += 1;
        self.calls == self.loss.call
    }

    fn lose(&mut self) -> AppError {
        self.connected = false;
        self.deaf = 3;
        match self.back {
            Back::Same | Back::Gone => {}
            Back::Restarted => self.app.restart(),
            Back::Older => {
                let at = self.copies.len().saturating_sub(4);
                self.app.restore(&self.copies[at]);
            }
            Back::Empty => self.app.restore(&self.copies[0]),
        }
        Self::lost()
    }

    fn here(&self) -> Result<(), AppError> {
        if self.connected {
            Ok(())
        } else {
            Err(Self::lost())
        }
    }
}

/// A call that may be the one at which the connection is lost.
macro_rules! call {
    ($flaky:ident, $call:expr) => {{
        $flaky.here()?;
        if $flaky.loses() {
            if $flaky.loss.carried_out {
                let _ = $call;
            }
            return Err($flaky.lose());
        }
        $call
    }};
}

impl App for Flaky {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.here()?;
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        call!(self, self.app.init_chain(request).await)
    }

    async fn announce_block(&mut self, block: &FinalizeBlock) -> Result<(), AppError> {
        call!(self, self.app.announce_block(block).await)
    }

    fn reconnect(&mut self) -> bool {
        self.deaf = self.deaf.saturating_sub(1);
        self.connected |= self.deaf == 0 && self.back != Back::Gone;
        true
    }

    async fn ping(&mut self) -> Result<(), AppError> {
        self.here()?;
        if self.loses() {
            Err(self.lose())
        } else {
            Ok(())
        }
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        call!(self, self.app.finalize_block(block).await)
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        let retain = call!(self, self.app.commit().await)?;
        self.copies.push(self.app.fork());
        Ok(retain)
    }

    fn committed_hash(&mut self) -> Option<Bytes> {
        self.app.committed_hash()
    }
}

#[tokio::test(start_paused = true)]
async fn l07_a_connection_lost_at_any_call() {
    let case = Case::new(41, 16);
    let mut runs = 0;
    for back in [Back::Same, Back::Restarted, Back::Older, Back::Empty] {
        for carried_out in [false, true] {
            for call in 1..=32 {
                let loss = Loss { call, carried_out };
                let what = format!("{back:?}, {loss:?}");
                let app = Living::new(true);
                let flaky = Flaky::new(&app, loss, back);
                let store = Arc::new(MemStore::new());
                case.completes(&what, 1, store, flaky).await;
                let commits = app.commits();
                let all: Vec<Height> = (1..=case.last().get()).map(Height::new).collect();
                assert_eq!(commits, all, "{what}: each block takes effect once");
                runs += 1;
            }
        }
    }
    println!("L07, the application's connection: {runs} losses, all mended");
}

/// Before ABCI 2.0: the hash is not known when the connection is lost in the middle of `Commit`.
#[tokio::test(start_paused = true)]
async fn l07_a_connection_lost_at_any_call_of_an_application_whose_hash_comes_late() {
    let case = Case::new(45, 12);
    for back in [Back::Restarted, Back::Older, Back::Empty] {
        for carried_out in [false, true] {
            for call in 1..=25 {
                let loss = Loss { call, carried_out };
                let what = format!("{back:?}, {loss:?}");
                let app = Living::with_late_hash();
                let flaky = Flaky::new(&app, loss, back);
                case.completes(&what, 1, Arc::new(MemStore::new()), flaky)
                    .await;
                let all: Vec<Height> = (1..=case.last().get()).map(Height::new).collect();
                assert_eq!(app.commits(), all, "{what}: each block takes effect once");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l07_an_application_that_does_not_come_back_ends_the_service_in_time() {
    let case = Case::new(42, 12);
    for call in [9, 10, 11] {
        let loss = Loss {
            call,
            carried_out: false,
        };
        let app = Living::new(true);
        let (store, begun) = (Arc::new(MemStore::new()), Instant::now());
        let flaky = Flaky::new(&app, loss, Back::Gone);
        let status = case.run(1, false, store.clone(), flaky).await.unwrap();
        let took = begun.elapsed();
        let Outcome::LocalFault(LocalFault::App(why)) = &status.outcome else {
            panic!("{:?}", status.outcome);
        };
        for part in ["test://app", "hung up", "60 s", "block"] {
            assert!(why.contains(part), "{why} lacks {part}");
        }
        println!("L07, gone: measured {took:?} until we gave up, allowed 60 s and one attempt");
        assert!((60..62).contains(&took.as_secs()), "{took:?}");
        assert_eq!(status.dropped, []);
        case.completes("it is back the next day", 2, store, app)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn l07_it_is_missed_and_found_again_while_there_is_nothing_to_do() {
    let case = Case::new(43, 12);
    let app = Living::new(true);
    // InitChain, and two calls for each of twelve blocks; the next one is the first of those that
    // look after it.
    let loss = Loss {
        call: 26,
        carried_out: false,
    };
    let flaky = Flaky::new(&app, loss, Back::Older);
    let store = Arc::new(MemStore::new());
    let service = BlockSync::builder(store.clone(), flaky, case.chain.genesis.clone());
    let handle = service.config(config(1)).spawn().await.unwrap();
    let peer = scripted(&case.chain, 1, Behaviour::Honest, DELAY);
    handle.add_peer(peer).await.unwrap();
    let mut watch = handle.status();
    let applied = watch.wait_for(|s| s.applied == case.last());
    tokio::time::timeout(GUARD, applied).await.unwrap().unwrap();
    sleep(Duration::from_secs(30)).await;
    let commits = app.commits();
    assert_eq!(
        commits.last(),
        Some(&case.last()),
        "it was brought up again"
    );
    assert_eq!(commits.len() as u64, case.last().get());
    assert_eq!(handle.status().borrow().waiting, None);
    handle.stop().await;
}

/// Refuses a height, in some way, until it is replaced.
struct Refusing {
    app: Living,
    height: Height,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// An answer in the SDK's words.
    Says(&'static str),
    /// It panics, which ends each connection.
    Panics,
}

impl App for Refusing {
    async fn info(&mut self) -> Result<AppInfo, AppError> {
        self.app.info().await
    }

    async fn init_chain(&mut self, request: InitChain) -> Result<InitChainResponse, AppError> {
        self.app.init_chain(request).await
    }

    fn reconnect(&mut self) -> bool {
        true
    }

    async fn finalize_block(&mut self, block: FinalizeBlock) -> Result<FinalizeResponse, AppError> {
        if block.height < self.height {
            return self.app.finalize_block(block).await;
        }
        Err(match self.how {
            How::Says(why) => AppError::Refused("FinalizeBlock", why.into()),
            How::Panics => Flaky::lost(),
        })
    }

    async fn commit(&mut self) -> Result<Height, AppError> {
        self.app.commit().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_refuses_a_height_is_no_failure_of_it() {
    let case = Case::new(44, 20);
    let upgrade = "UPGRADE \"v2\" NEEDED at height: 10: {}";
    let halt = "halt per configuration height 10 time 0";
    for how in [How::Says(upgrade), How::Says(halt), How::Panics] {
        let (app, store) = (Living::new(true), Arc::new(MemStore::new()));
        // A second start without a new application says the same.
        for life in 0..2 {
            let what = format!("{how:?}, life {life}");
            let refusing = Refusing {
                app: app.clone(),
                height: Height::new(10),
                how,
            };
            let ended = case.run(life, false, store.clone(), refusing).await;
            let (height, why) = match ended {
                Ok(status) => match status.outcome {
                    Outcome::LocalFault(LocalFault::Halted { height, why }) => (height, why),
                    other => panic!("{what}: {other:?}"),
                },
                Err(StartError::Halted { height, why }) => (height, why),
                Err(other) => panic!("{what}: {other}"),
            };
            assert_eq!(height, Height::new(10), "{what}");
            if let How::Says(words) = how {
                assert_eq!(why, words, "{what}");
            }
            assert_eq!(store.span().unwrap().applied, Height::new(9), "{what}");
            assert_eq!(app.commits().last(), Some(&Height::new(9)), "{what}");
        }
        case.completes("the next version goes on", 9, store, app)
            .await;
    }
}
