//! The status page, its JSON and the health checks.

use std::time::Duration;

use blocksync_http::Options;
use blocksync_testkit::peers::Behaviour;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Synced, ask, get};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_liars_verdict_and_the_json_is_the_same() {
    let peers = [Behaviour::Garbage, Behaviour::Honest];
    let synced = Synced::new("one", "comet-0.38", 40, &peers).await;
    let http = synced.serve_live();
    let json = get(&http, "/status.json").await.json();
    assert_eq!(
        (json["version"].as_u64(), json["applied"].as_u64()),
        (Some(1), Some(40))
    );
    assert_eq!(json["outcome"], "reached_target");
    let verdicts = json["dropped"].as_array().unwrap();
    let liar = verdicts
        .iter()
        .find(|d| d["banned_seconds"].as_u64().is_some());
    let liar = liar.unwrap_or_else(|| panic!("no verdict: {json}"));
    let page = get(&http, "/").await;
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .starts_with("default-src 'none'")
    );
    assert!(
        page.text()
            .contains("<h1 id=\"outcome\" aria-live=\"polite\">Reached the height")
    );
    let fault = liar["fault"].as_str().unwrap().replace('\'', "&#39;");
    assert!(page.text().contains(&fault), "{fault}");
    assert_eq!(
        get(&http, "/page.js").await.header("content-type"),
        Some("text/javascript")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_changed_and_foreign_names_are_refused() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    for path in ["/metrics", "/status.json", "/healthz", "/page.js"] {
        assert_eq!(
            ask(&http, "POST", path, "", b"{}").await.status,
            405,
            "{path}"
        );
    }
    let mut stream = TcpStream::connect(http.address()).await.unwrap();
    let request = b"GET /status.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_but_is_not_ready_while_it_syncs() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let alive = get(&http, "/healthz").await;
    assert_eq!((alive.status, alive.text()), (200, "ok\n"));
    assert_eq!(alive.header("cache-control"), Some("no-store"));
    assert_eq!(get(&http, "/livez").await.status, 200);
    let ready = get(&http, "/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    let checks = &ready.json()["checks"];
    assert_eq!(checks["store"], "ok");
    assert!(
        checks["caught_up"]
            .as_str()
            .unwrap()
            .ends_with("blocks behind")
    );
    assert!(
        checks["last_block"]
            .as_str()
            .unwrap()
            .contains("old, more than 60 s")
    );
    let accept = "Accept: application/json\r\n";
    assert_eq!(
        ask(&http, "GET", "/readyz", accept, b"").await.json()["ready"],
        false
    );
    // The store alone, with an old chain: ready when nobody asks for the age.
    let options = Options {
        ready_lag: Duration::ZERO,
        ..Options::default()
    };
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let http = blocksync_http::Http::start(any, synced.node(None), options).unwrap();
    assert_eq!(get(&http, "/readyz").await.status, 200);
}

/// A scheduler that hangs is told from one that has nothing to do, and comes back.
#[test]
fn a_scheduler_that_hangs_does_not_live() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (service, client) = (runtime(), runtime());
    let syncing = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]);
    let synced = service.block_on(syncing);
    // From here on nobody drives the service's runtime.
    let http = synced.serve_live();
    let alive = client.block_on(get(&http, "/healthz"));
    let why = "scheduler: the scheduler did not answer within 5 s\n";
    assert_eq!((alive.status, alive.text()), (503, why));
    // Now it is driven while we ask.
    let alive = service.block_on(async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        get(&http, "/healthz").await
    });
    assert_eq!((alive.status, alive.text()), (200, "ok\n"));
}

/// The page's events come at once and again when something changes; 31 listeners that do not read
/// hold up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn events_reach_a_listener_beside_31_that_do_not_read() {
    let synced = Synced::new("one", "comet-0.38", 20, &[Behaviour::Honest]).await;
    let http = synced.serve_live();
    let request = b"GET /status.events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(http.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        held.push(stream);
    }
    let mut listener = held.pop().unwrap();
    let mut said = String::new();
    let reading = async {
        let mut buffer = [0; 4096];
        while !said.contains("\"outcome_text\"") {
            let n = listener.read(&mut buffer).await.unwrap();
            assert!(n > 0, "closed: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("an event");
    assert!(
        said.contains("text/event-stream") && said.contains("retry: 2000"),
        "{said}"
    );
    let refused = get(&http, "/status.events").await.status;
    assert_eq!(refused, 503, "the 33rd");
}
