//! Where each path leads.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures::Stream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::health::{self, Check};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::page;
use crate::rpc::{METHODS, Reply, Rpc, RpcError, error_reply, websocket};
use crate::server::Limits;
use crate::watch::Watch;

/// The longest body of a request.
const MAX_BODY: usize = 1_000_000;
/// Status pages that are open at a time.
const MAX_LISTENERS: usize = 32;
/// Websockets that are open at a time.
const MAX_WEBSOCKETS: usize = 100;
/// Scrapes at a time.
const MAX_SCRAPES: usize = 3;
/// Requests without a body that the page's paths answer must name one of these hosts, or an
/// address: against names that are bound anew.
const LOCAL: &str = "localhost";

/// Everything that handlers need.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) rpc: Arc<Rpc>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) metrics: Metrics,
    pub(crate) namespace: String,
    pub(crate) ready_lag: Duration,
    pub(crate) hosts: Vec<String>,
    pub(crate) limits: Limits,
    pub(crate) stop: CancellationToken,
    pub(crate) scrapes: Arc<Semaphore>,
    pub(crate) pages: Arc<Semaphore>,
    pub(crate) sockets: Arc<Semaphore>,
}

impl Site {
    pub(crate) fn permits() -> [Arc<Semaphore>; 3] {
        [MAX_SCRAPES, MAX_LISTENERS, MAX_WEBSOCKETS].map(|n| Arc::new(Semaphore::new(n)))
    }

    fn node(&self) -> &Node {
        &self.rpc.node
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            // Any other method is a call with a body, as in CometBFT (`rpc.md` 1).
            .route("/", get(page).fallback(by_body))
            .route("/page.css", get(|| asset("text/css", page::STYLE)))
            .route("/page.js", get(|| asset("text/javascript", page::SCRIPT)))
            .route("/icon.svg", get(|| asset("image/svg+xml", page::ICON)))
            .route("/status.json", get(status_json))
            .route("/status.events", get(status_events))
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/livez", get(healthz))
            .route("/readyz", get(readyz))
            .route("/websocket", get(websocket))
            // Behind the fixed paths, none of which is the name of a method.
            .route("/{method}", any(by_uri))
            .fallback(nothing)
            .with_state(Arc::new(self))
    }
}

type At = State<Arc<Site>>;

fn server_time() -> HeaderValue {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    HeaderValue::from(now.as_secs())
}

const SERVER_TIME: HeaderName = HeaderName::from_static("x-server-time");

async fn nothing() -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (SERVER_TIME, server_time()),
    ];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// A body, within its length and its time.
async fn body_of(site: &Site, body: Body) -> Result<bytes::Bytes, Box<Response>> {
    let reading = axum::body::to_bytes(body, MAX_BODY);
    match tokio::time::timeout(site.limits.body, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            // Go's words: a golden case compares them.
            let why = "error reading request body: http: request body too large";
            let reply = error_reply(400, &RpcError::invalid_request(why), None);
            Err(Box::new(answered(site, reply).await))
        }
        Err(_) => Err(Box::new(StatusCode::REQUEST_TIMEOUT.into_response())),
    }
}

/// A reply of the RPC as HTTP.
async fn answered(site: &Site, reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    headers.insert(SERVER_TIME, server_time());
    if !reply.body.is_empty() {
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
    }
    // CometBFT lets a failed call by POST be cached for a day. Ours may not: "not
    // yet" is true for seconds.
    let cache = match (reply.cacheable, reply.succeeded) {
        (true, true) => Some("public, max-age=86400"),
        (_, false) => Some("no-store"),
        (false, true) => None,
    };
    if let Some(cache) = cache {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    }
    // Waits for its share of the memory in flight, so slow readers hold up new
    // answers, not the process.
    let body = site.rpc.charged(reply.body).await;
    (status, headers, Body::new(body)).into_response()
}

/// POST, and whatever else has a body.
async fn by_body(State(site): At, request: Request) -> Response {
    let host = host_of(request.headers());
    let body = match body_of(&site, request.into_body()).await {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    // An empty POST gets the list of methods, as in CometBFT (`rpc.md` 1).
    if body.is_empty() {
        return list(&host);
    }
    let reply = site.rpc.read(move |rpc| rpc.by_body(&body)).await;
    match reply {
        Some(reply) => answered(&site, reply).await,
        // The call panicked, or the runtime is ending: the client may try again.
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn by_uri(State(site): At, Path(name): Path<String>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
    // A JSON body at a method's path is read and ignored, as in CometBFT (`rpc.md` 1).
    let reads_body = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut form = String::new();
    if reads_body {
        match body_of(&site, request.into_body()).await {
            Ok(body) if is_form => form = String::from_utf8_lossy(&body).into_owned(),
            Ok(_) => {}
            Err(refusal) => return *refusal,
        }
    }
    let reply = site
        .rpc
        .read(move |rpc| rpc.by_uri(&name, &query, &form))
        .await;
    match reply {
        Some(Some(reply)) => answered(&site, reply).await,
        Some(None) => nothing().await,
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The methods, for people.
fn list(host: &str) -> Response {
    let mut html = String::from("<html><body><br>Available endpoints:<br>");
    // CometBFT's own markup, `</br>` and all.
    let link = |html: &mut String, target: String| {
        html.push_str(&format!("<a href=\"{target}\">{target}</a></br>"));
    };
    for method in METHODS.iter().filter(|m| m.params.is_empty()) {
        link(&mut html, format!("//{host}/{}", method.name));
    }
    html.push_str("<br>Endpoints that require arguments:<br>");
    for method in METHODS.iter().filter(|m| !m.params.is_empty()) {
        let args = method.params.iter().map(|(name, _)| format!("{name}=_"));
        let args = args.collect::<Vec<_>>().join("&amp;");
        link(&mut html, format!("//{host}/{}?{args}", method.name));
    }
    html.push_str("</body></html>");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html")),
        (SERVER_TIME, server_time()),
    ];
    (headers, html).into_response()
}

async fn websocket(State(site): At, upgrade: WebSocketUpgrade) -> Response {
    let Ok(seat) = site.sockets.clone().try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    upgrade
        .max_message_size(websocket::MAX_MESSAGE)
        .on_upgrade(move |socket| async move {
            websocket::serve(site.rpc.clone(), socket, site.stop.clone()).await;
            // Held as long as the client is there, which is long after this function has returned.
            drop(seat);
        })
}

/// The host that a request names, as far as it can stand in HTML.
fn host_of(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    // These characters can neither end an attribute nor begin a tag.
    let fits = |c: char| c.is_ascii_alphanumeric() || ".:-[]_".contains(c);
    host.chars().filter(|c| fits(*c)).collect()
}

/// Whether the page may be shown to who names this host.
fn is_ours(site: &Site, headers: &HeaderMap) -> bool {
    let host = host_of(headers);
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // An address cannot be bound anew; a name can be, by a page that wants to read ours.
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case(LOCAL)
        || site
            .hosts
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
}

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of everything that a browser shows.
fn safe(kind: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    (safe(kind), text).into_response()
}

fn misdirected() -> Response {
    let why = "this name is not one of the node's: use its address, or set the name\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

async fn page(State(site): At, headers: HeaderMap) -> Response {
    if !is_ours(&site, &headers) {
        return misdirected();
    }
    let shown = site.watch.look().await;
    (safe("text/html; charset=utf-8"), page::render(&shown)).into_response()
}

async fn status_json(State(site): At, headers: HeaderMap) -> Response {
    if !is_ours(&site, &headers) {
        return misdirected();
    }
    let shown = site.watch.look().await;
    match serde_json::to_string(&*shown) {
        Ok(json) => (safe("application/json"), json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The page's state whenever it changes; a listener that is slow skips states.
async fn status_events(State(site): At, headers: HeaderMap) -> Response {
    if !is_ours(&site, &headers) {
        return misdirected();
    }
    let Ok(seat) = site.pages.clone().try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let mut shown = site.watch.subscribe();
    // So that the first state goes out at once and not with the next change.
    shown.mark_changed();
    let states = futures::stream::unfold((shown, seat), |(mut shown, seat)| async move {
        loop {
            shown.changed().await.ok()?;
            let now = shown.borrow_and_update().clone();
            if now.version == 0 {
                continue; // nobody has looked yet
            }
            let json = serde_json::to_string(&*now).ok()?;
            let event = Event::default().data(json).retry(Duration::from_secs(2));
            return Some((Ok::<_, Infallible>(event), (shown, seat)));
        }
    });
    // Without it an open page would keep the listener from ending.
    let ended = site.stop.clone().cancelled_owned();
    let states = futures::StreamExt::take_until(states, ended);
    let mut response = sse(states);
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn sse(states: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let alive = KeepAlive::new().interval(Duration::from_secs(15));
    Sse::new(states).keep_alive(alive).into_response()
}

async fn metrics(State(site): At, headers: HeaderMap) -> Response {
    // A scrape reads the store; more at a time than there are scrapers would only queue.
    let Ok(_scrape) = site.scrapes.clone().try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|kinds| kinds.to_str().ok());
    // Only when it is asked for: the older format is what everything reads.
    let open = accepted.is_some_and(|kinds| kinds.contains("application/openmetrics-text"));
    let (metrics, namespace) = (site.metrics.clone(), site.namespace.clone());
    let text = tokio::task::spawn_blocking(move || metrics.expose(&namespace, open)).await;
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz(State(site): At, request: Request) -> Response {
    let checks = health::alive(&site.watch).await;
    checked("ok", &checks, &request)
}

async fn readyz(State(site): At, request: Request) -> Response {
    let checks = health::ready(site.node(), site.ready_lag).await;
    checked("ready", &checks, &request)
}

fn checked(word: &'static str, checks: &[Check], request: &Request) -> Response {
    let failed = checks.iter().find(|(_, found)| found.is_err());
    let status = match failed {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let accepts = request.headers().get(header::ACCEPT);
    let wants_json = accepts.is_some_and(|kinds| {
        kinds
            .to_str()
            .is_ok_and(|kinds| kinds.contains("application/json"))
    });
    let query = request.uri().query().unwrap_or_default();
    let verbose = query
        .split('&')
        .any(|part| part.split('=').next() == Some("verbose"));
    // One word for probes, and all checks for people who ask why.
    let (kind, text) = if wants_json || verbose {
        let each = checks.iter().map(|(name, found)| {
            let found = found.as_ref().err().map_or("ok", String::as_str);
            ((*name).to_owned(), serde_json::Value::from(found))
        });
        let checks: serde_json::Map<_, _> = each.collect();
        let json = serde_json::json!({ word: failed.is_none(), "checks": checks });
        ("application/json", json.to_string())
    } else {
        let text = match failed {
            Some((name, Err(why))) => format!("{name}: {why}\n"),
            _ => "ok\n".to_owned(),
        };
        ("text/plain; charset=utf-8", text)
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, text).into_response()
}
