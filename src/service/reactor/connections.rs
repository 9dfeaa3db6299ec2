//! Connections as they come and go.

use tokio::sync::mpsc;
use tokio::time::Duration;
use tracing::{Instrument as _, debug, debug_span, warn};

use super::{COMMANDS, Conn, DEPARTED, Reactor};
use crate::fault::CloseReason;
use crate::ids::{ConnId, Height, PeerId};
use crate::link::Link;
use crate::pool::{Input, Tick};
use crate::service::peer::PeerTask;
use crate::service::status::{Dropped, Event};
use crate::sparing::info_if;

impl Reactor {
    /// Whether the log has room for a line about a peer. Configured peers are few, and are always
    /// told of; others come as often as they like.
    fn tells_of(&self, peer: PeerId) -> bool {
        let configured = self.configured.as_ref();
        configured.is_some_and(|known| known.borrow().peers.contains(&peer)) || self.lines.may()
    }

    pub(super) fn add_peer(&mut self, link: Link) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let (peer, address) = (link.peer, link.address.clone());
        info_if!(self.tells_of(peer), %peer, %address, "peer connected");
        if let Some(bans) = &link.bans
            && !self.tables.iter().any(|known| known.is(bans))
        {
            // Transports come and go with their connections; only here is their number bounded.
            self.tables.retain(|known| !known.is_abandoned());
            self.tables.push(bans.clone());
        }
        if self.configured.is_none() && link.configured.is_some() {
            self.configured.clone_from(&link.configured);
            self.expect();
        }
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let entry = Conn {
            peer,
            address: address.clone(),
            commands,
            hangup: link.hangup.clone(),
            claim: Height::ZERO,
        };
        // Before the pool hears of it: what it wants first is done by this entry.
        self.conns.insert(conn, entry);
        let task = PeerTask {
            conn,
            link,
            commands: inbox,
            reading: self.reading.subscribe(),
            inputs: self.inputs.clone(),
            server: self.wiring.server.clone(),
            limits: self.wiring.config.limits,
            offload: self.wiring.offload.clone(),
            meters: self.wiring.meters.clone(),
            decoded: 0,
            patience: Duration::from_micros(self.wiring.config.pool.request_timeout),
        };
        let span = debug_span!("connection", %conn, %peer, %address);
        self.peers.spawn(task.run().instrument(span));
        self.tell(Event::PeerUp { peer, address });
        self.feed(Input::Up { conn, peer });
    }

    pub(super) fn drop_peer(
        &mut self,
        conn: ConnId,
        peer: PeerId,
        reason: CloseReason,
        ban_until: Option<Tick>,
    ) {
        if reason == CloseReason::Stopping {
            // All go then, which is no news of this peer.
            return self.forget(conn);
        }
        let address = self.address_of(conn);
        let ban =
            ban_until.map(|Tick(until)| Duration::from_micros(until.saturating_sub(self.now().0)));
        let tells = self.tells_of(peer);
        let ban_seconds = ban.map(|b| b.as_secs());
        match (reason.is_peers_doing(), tells) {
            (true, true) => warn!(%peer, %address, %reason, ban_seconds, "peer dropped"),
            (true, false) => debug!(%peer, %address, %reason, ban_seconds, "peer dropped"),
            (false, _) => info_if!(tells, %peer, %address, %reason, "peer gone"),
        }
        // Before the connection ends: a peer that comes back at once is refused.
        if let Some(ban) = ban {
            self.tables.iter().for_each(|bans| bans.ban(peer, ban));
        }
        self.forget(conn);
        let dropped = Dropped {
            peer,
            address,
            reason,
            ban,
        };
        self.wiring.status.send_modify(|s| s.note_dropped(&dropped));
        if dropped.reason.is_peers_doing() {
            self.wiring.meters.figures().dropped(&dropped.reason);
        }
        self.tell(Event::PeerDropped(dropped));
    }

    /// Where a connection is or was; empty when it was forgotten long ago.
    fn address_of(&self, conn: ConnId) -> String {
        let here = self.conns.get(&conn).map(|c| &c.address);
        let was = || {
            let mut departed = self.departed.iter().rev();
            departed.find(|(id, _)| *id == conn).map(|(_, at)| at)
        };
        here.or_else(was).cloned().unwrap_or_default()
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        if let Some(gone) = self.conns.remove(&conn) {
            gone.hangup.cancel();
            if self.departed.len() >= DEPARTED {
                self.departed.pop_front();
            }
            self.departed.push_back((conn, gone.address));
            self.tell(Event::PeerDown { peer: gone.peer });
        }
    }
}
