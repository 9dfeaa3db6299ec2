//! The same seed, the same run: every event of the service, every request of it, and its log, byte
//! for byte. And the wall clock has no part in it (L12).

use std::sync::Arc;
use std::time::Duration;

use blocksync::chain::Time;
use blocksync::service::Config;
use blocksync::store::Store;
use tracing::level_filters::LevelFilter;

use crate::logged;
use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{GUARD, KvStore, made, peers, policies, start};
use blocksync_testkit::recorded::{Recorded, clock, config};

fn hostile(chain: &Arc<Recorded>) -> Vec<Script> {
    let late = |ms| Script::late(chain, Duration::from_millis(ms));
    vec![
        Script::honest(chain),
        Script::wrong_body(chain),
        late(30),
        Script::flaps(chain, Duration::from_millis(70)),
        Script::silent(chain),
        Script::no_blocks(chain),
        Script::bad_extensions(chain),
        Script::garbage(chain),
        Script::claims(chain, 1 << 62),
        late(900),
        Script::drips(chain),
        Script::honest(chain),
    ]
}

/// All that can be seen of a run: the log at its finest, the events, the requests, with their
/// times, and the status at the end.
async fn seen(chain: &Arc<Recorded>, config: Config) -> String {
    logged::listen(LevelFilter::TRACE);
    let (handle, store) = start(chain, config, KvStore::new()).await;
    let log = Log::new();
    let mut events = handle.events();
    let watching = tokio::spawn({
        let log = log.clone();
        async move {
            while let Ok(timed) = events.recv().await {
                // Without its time, which is the wall clock's.
                log.line(&format!("{:?}", timed.event));
            }
        }
    });
    for (n, script) in hostile(chain).into_iter().enumerate() {
        peers::keep(&handle, n as u8 + 1, script, &log);
    }
    let mut watch = handle.status();
    let last = chain.tip().prev();
    let done = watch.wait_for(|s| s.applied == last);
    tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
    // Beyond the end: late answers, bans that end, claims that are given up.
    tokio::time::sleep(Duration::from_secs(180)).await;
    let status = format!("{:?}", handle.status().borrow());
    handle.stop().await;
    watching.abort();
    let text = logged::take();
    format!("{text}\n{}\n{status}\n{:?}", log.text(), store.span())
}

fn assert_same(what: &str, first: &str, second: &str) {
    let differs = first.lines().zip(second.lines()).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let around = |text: &str| {
            text.lines()
                .skip(at.saturating_sub(3))
                .take(6)
                .collect::<Vec<_>>()
                .join("\n")
        };
        panic!(
            "{what}: line {at}:\n{}\n-- and --\n{}",
            around(first),
            around(second)
        );
    }
    assert_eq!(first.len(), second.len(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn s17_the_same_seed_gives_the_same_run() {
    let chain = Recorded::of(&made(1, 120));
    for seed in 1..=3 {
        let config = policies(seed)[seed as usize % 2].clone();
        let first = seen(&chain, config.clone()).await;
        let second = seen(&chain, config).await;
        assert_same(&format!("seed {seed}"), &first, &second);
        println!(
            "S17, seed {seed}: {} lines, the same twice",
            first.lines().count()
        );
        assert!(first.lines().count() > 1000);
    }
}

thread_local! {
    /// How often the clock was read.
    static READ: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

fn a_day_on() -> Time {
    Time::new(clock().seconds + 86_400, 0).unwrap()
}

fn a_day_back() -> Time {
    Time::new(clock().seconds - 86_400, 0).unwrap()
}

/// Back by a minute with each look.
fn backwards() -> Time {
    READ.set(READ.get() + 1);
    Time::new(clock().seconds - 60 * READ.get(), 0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn l12_the_wall_clock_changes_nothing() {
    let chain = Recorded::of(&made(2, 60));
    let frozen = seen(&chain, config(1)).await;
    let clocks = [a_day_on as fn() -> Time, a_day_back, backwards];
    for (name, clock) in ["a day on", "a day back", "backwards"]
        .into_iter()
        .zip(clocks)
    {
        let mut config = config(1);
        config.clock = clock;
        let with_it = seen(&chain, config).await;
        assert_same(name, &frozen, &with_it);
        println!(
            "L12, {name}: the same {} lines as with a frozen clock",
            frozen.lines().count()
        );
    }
}
