//! Calls and subscriptions over a websocket.
//!
//! A subscription holds no queue: it knows the next height, and blocks are read from the store when
//! the client has taken the one before. A slow client lags and misses nothing, until what it waits
//! for is pruned.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use blocksync::ids::Height;
use blocksync::wire::decode;
use blocksync::wire::proto::abci::{Event, ResponseFinalizeBlock};
use bytes::Bytes;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::{Rpc, RpcError, success};
use crate::json::{self, Json, Request, requests};

/// Between two looks for a new block.
const LOOK: Duration = Duration::from_millis(100);
/// Between two pings.
const PING: Duration = Duration::from_secs(27);
/// Time after which a client that takes nothing is gone.
const WRITE: Duration = Duration::from_secs(10);
/// The largest message of a client.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Subscriptions of one client, as in CometBFT.
const MAX_SUBSCRIPTIONS: usize = 5;

/// One subscription to new blocks.
struct Subscription {
    /// Of the call, and of every event.
    id: String,
    query: String,
    next: Height,
}

/// The client is gone.
struct Gone;

/// One client's connection.
struct Session {
    rpc: Arc<Rpc>,
    socket: WebSocket,
    subscriptions: Vec<Subscription>,
}

/// Serves a client until it is gone or `stop` is cancelled.
pub(crate) async fn serve(rpc: Arc<Rpc>, socket: WebSocket, stop: CancellationToken) {
    let mut session = Session {
        rpc,
        socket,
        subscriptions: Vec::new(),
    };
    // A client that is gone needs no farewell.
    let _ = session.run(&stop).await;
}

impl Session {
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), Gone> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ping = tokio::time::interval(PING);
        loop {
            tokio::select! {
                // A farewell, so that the client knows at once and need not time out.
                () = stop.cancelled() => return self.send(Message::Close(None)).await,
                message = self.socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => self.calls(text.as_bytes()).await?,
                    Some(Ok(Message::Binary(bytes))) => self.calls(&bytes).await?,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Gone),
                },
                // Most clients never subscribe: `cometbft light` only wants the connection to open.
                _ = look.tick(), if !self.subscriptions.is_empty() => self.events().await?,
                _ = ping.tick() => self.send(Message::Ping(Bytes::new())).await?,
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        match tokio::time::timeout(WRITE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    async fn text(&mut self, body: Json) -> Result<(), Gone> {
        // All of it is JSON that was written here.
        let text = String::from_utf8(body.into_bytes()).map_err(|_| Gone)?;
        self.send(Message::Text(text.into())).await
    }

    /// Calls of one message. Those of subscriptions are ours, the others go the way of a POST.
    async fn calls(&mut self, body: &[u8]) -> Result<(), Gone> {
        let whole_ids = self.rpc.whole_ids();
        let parsed = match requests(body, whole_ids) {
            Ok(parsed) => parsed,
            Err(why) => return self.text(RpcError::parse(&why).answer(None)).await,
        };
        if let [call] = &parsed[..]
            && super::methods::is_websocket(&call.method)
        {
            return self.subscription_call(call).await;
        }
        let body = body.to_vec();
        let reply = self.rpc.read(move |rpc| rpc.by_body(&body)).await;
        match reply {
            Some(reply) if !reply.body.is_empty() => self.text(reply.body).await,
            Some(_) => Ok(()),
            None => Err(Gone),
        }
    }

    async fn subscription_call(&mut self, call: &Request) -> Result<(), Gone> {
        // A notification gets no answer, so there would be no id for its events either.
        let Some(id) = call.id.clone() else {
            return Ok(());
        };
        let answer = match self.change(call, &id).await {
            Ok(()) => {
                let mut empty = Json::new();
                empty.raw("{}");
                success(&id, empty)
            }
            Err(error) => error.answer(Some(&id)),
        };
        self.text(answer).await
    }

    async fn change(&mut self, call: &Request, id: &str) -> Result<(), RpcError> {
        if call.method == "unsubscribe_all" {
            if self.subscriptions.is_empty() {
                return Err(RpcError::internal("subscription not found"));
            }
            self.subscriptions.clear();
            return Ok(());
        }
        let query = query_of(call).ok_or_else(|| RpcError::internal("query cannot be empty"))?;
        let at = self.subscriptions.iter().position(|s| s.query == query);
        if call.method == "unsubscribe" {
            let at = at.ok_or_else(|| RpcError::internal("subscription not found"))?;
            self.subscriptions.remove(at);
            return Ok(());
        }
        // Clients write the query with and without spaces.
        let wanted: String = query.chars().filter(|c| !c.is_whitespace()).collect();
        if wanted != "tm.event='NewBlock'" {
            return Err(RpcError::internal(format!(
                "failed to subscribe: only tm.event='NewBlock' is served here, not {query}"
            )));
        }
        if at.is_some() {
            return Err(RpcError::internal("already subscribed"));
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            let why = format!("max_subscriptions_per_client {MAX_SUBSCRIPTIONS} reached");
            return Err(RpcError::internal(why));
        }
        let span = self.rpc.read(|rpc| rpc.node.store.span()).await;
        let Some(Ok(span)) = span else {
            return Err(RpcError::internal("the store cannot be read"));
        };
        self.subscriptions.push(Subscription {
            id: id.to_owned(),
            query,
            // From the next block on: past ones are asked for by calls.
            next: span.applied.next(),
        });
        Ok(())
    }

    /// Tells every subscriber of the blocks that it has not been told of.
    async fn events(&mut self) -> Result<(), Gone> {
        for n in 0..self.subscriptions.len() {
            let (height, query) = {
                let subscription = &self.subscriptions[n];
                (subscription.next, subscription.query.clone())
            };
            let event = self
                .rpc
                .read(move |rpc| new_block(rpc, height, &query))
                .await;
            let answer = match event {
                None => return Err(Gone),
                Some(Ok(None)) => continue,
                Some(Ok(Some(event))) => {
                    self.subscriptions[n].next = height.next();
                    success(&self.subscriptions[n].id, event)
                }
                // Pruned before this client took it: the subscription ends with the
                // reason, the connection stays.
                Some(Err(why)) => {
                    let id = self.subscriptions.remove(n).id;
                    self.text(RpcError::internal(why).answer(Some(&id))).await?;
                    return Ok(());
                }
            };
            self.text(answer).await?;
        }
        Ok(())
    }
}

fn query_of(call: &Request) -> Option<String> {
    let params = call.params.as_ref()?.get();
    let named = json::parse_fields(params).and_then(|fields| {
        let query = fields.into_iter().find(|(name, _)| name == "query");
        query.map(|(_, value)| value)
    });
    // By name or by place, as for any call.
    let value = match named {
        Some(value) => value,
        None => {
            let list: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(params).ok()?;
            list.into_iter().next()?
        }
    };
    let text: String = serde_json::from_str(value.get()).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The event of a height; `None` while it is not applied.
fn new_block(rpc: &Rpc, height: Height, query: &str) -> Result<Option<Json>, String> {
    let span = rpc.node.store.span().map_err(|why| why.to_string())?;
    // Applied and not just stored: its results are in the event.
    if span.applied < height {
        return Ok(None);
    }
    let record = rpc
        .node
        .store
        .block(height)
        .map_err(|why| why.to_string())?;
    let Some(record) = record else {
        return Err(format!(
            "height {height} is not available, lowest height is {}",
            span.base
        ));
    };
    let block = decode::block_from_bytes(&record.raw).map_err(|why| why.to_string())?;
    let response = rpc
        .node
        .store
        .results_at(height)
        .map_err(|why| why.to_string())?;
    let mut out = Json::new();
    out.raw("{\"query\":").string(query.as_bytes());
    out.raw(",\"data\":{\"type\":\"tendermint/event/NewBlock\",\"value\":{\"block\":");
    json::block(&mut out, &block);
    out.raw(",\"block_id\":");
    json::block_id(&mut out, &record.id);
    out.raw(",\"result_finalize_block\":");
    match response.clone() {
        Some(response) => {
            json::finalize_response(&mut out, response).map_err(|why| why.to_string())?;
        }
        None => {
            out.raw("null");
        }
    }
    out.raw("}},\"events\":{\"tm.event\":[\"NewBlock\"]");
    for (name, values) in attributes(response)? {
        out.raw(",").string(name.as_bytes()).raw(":");
        out.list(&values, |json, value| {
            json.string(value);
        });
    }
    out.raw("}}");
    Ok(Some(out))
}

/// Attributes of the application's own events of the block, by `type.key`, in order of their first
/// appearance.
fn attributes(response: Option<Bytes>) -> Result<Vec<(String, Vec<Bytes>)>, String> {
    let Some(response) = response else {
        return Ok(Vec::new());
    };
    let response = ResponseFinalizeBlock::decode(response).map_err(|why| why.to_string())?;
    let mut found: Vec<(String, Vec<Bytes>)> = Vec::new();
    let events: &[Event] = &response.events;
    for event in events.iter().filter(|event| !event.r#type.is_empty()) {
        for attribute in event.attributes.iter().filter(|a| !a.key.is_empty()) {
            let (kind, key) = (
                String::from_utf8_lossy(&event.r#type),
                String::from_utf8_lossy(&attribute.key),
            );
            let name = format!("{kind}.{key}");
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(attribute.value.clone()),
                None => found.push((name, vec![attribute.value.clone()])),
            }
        }
    }
    Ok(found)
}
