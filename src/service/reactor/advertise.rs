//! Heights that peers are told of, and what is looked at while consensus has the writer.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{Instrument as _, warn};

use super::{LEAST_TRIGGER, Place, Reactor, is_indispensable};
use crate::chain::ChainState;
use crate::ids::Height;
use crate::service::peer::Command;
use crate::service::status::Event;

impl Reactor {
    /// Advertises what is durable. The height that peers have heard of never falls, and the base
    /// only rises.
    pub(super) fn serve(&mut self, state: &ChainState, pruned_to: Option<Height>) {
        let before = *self.wiring.served.borrow();
        if before.base == Height::ZERO && state.last_height < self.first {
            return; // a state without blocks, as state sync leaves it
        }
        // A status lower than before gets us banned by CometBFT for 60 s (`protocol.md` 4.5).
        let height = state.last_height.max(before.height);
        let first = self.first;
        self.wiring.served.send_modify(|s| {
            s.height = height;
            if s.base == Height::ZERO {
                s.base = first;
            }
            s.base = s.base.max(pruned_to.unwrap_or(Height::ZERO));
        });
        let below = self.wiring.served.borrow().base;
        if before.base != Height::ZERO && below > before.base {
            self.tell(Event::Pruned { below });
        }
        // The first heights are news to everybody; later ones wait for their time.
        if before.height == Height::ZERO {
            self.tell_all();
        } else {
            self.told.1 |= *self.wiring.served.borrow() != before;
        }
    }

    /// Notes whether we are behind our peers; nodes of CometBFT have not heard of us before we are
    /// not.
    pub(super) fn set_behind(&mut self, behind: bool) {
        let behind = behind && !self.wiring.config.serve.while_behind;
        let changed = self.wiring.served.send_if_modified(|served| {
            let changed = served.behind != behind;
            served.behind = behind;
            changed
        });
        if changed && !behind {
            self.tell_all();
        }
    }

    /// Consensus, or another owner of the writer, has written to the store: its
    /// range is what we have now.
    pub(super) fn committed(&mut self) {
        // While the executor has the writer, its own `Applied` says what is there.
        if !self.executor.is_elsewhere() {
            return;
        }
        let (span, state) = match (self.wiring.store.span(), self.wiring.store.state()) {
            (Ok(span), Ok(Some(state))) => (span, Arc::new(state)),
            (Ok(_), Ok(None)) => return,
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "what consensus has stored cannot be read, and is not served");
                return;
            }
        };
        if self.wiring.served.borrow().base == Height::ZERO {
            let none = span.base == Height::ZERO;
            self.first = if none { state.next_height() } else { span.base };
        }
        self.serve(&state, (span.base > Height::ZERO).then_some(span.base));
        if state.last_height <= self.wiring.status.borrow().applied {
            return;
        }
        self.committed_at = Instant::now();
        self.wiring.server.set_stateless(false);
        self.indispensable = is_indispensable(&self.wiring.config, &state);
        if self.executor == Place::Awaited {
            return self.wiring.status.send_modify(|s| s.begin_at(&state));
        }
        self.wiring.status.send_modify(|s| s.set_state(&state));
        self.tell(Event::Applied { state });
    }

    /// Tells all peers what we have: legal for CometBFT at any time as long as neither number
    /// falls. A peer whose mailbox is full has better things to do, and asks for it itself.
    pub(super) fn tell_all(&mut self) {
        self.told = (Instant::now(), false);
        for conn in self.conns.values() {
            let _ = conn.commands.try_send(Command::Advertise);
        }
    }

    /// Holds proofs that were kept against our own chain as it grows.
    pub(super) fn watch_forks(&mut self) {
        let (server, inputs) = (self.wiring.server.clone(), self.inputs.clone());
        let Some(advertiser) = server.advertiser().cloned() else {
            return;
        };
        let stop = self.wiring.stop.clone();
        let watch = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = advertiser.watch_forks(&server, inputs) => {}
            }
        };
        self.peers.spawn(watch.in_current_span());
    }

    /// Consensus has committed nothing for long.
    pub(super) fn look_behind(&mut self) {
        // Also when nothing is said: it is looked at again after another `trigger_timeout`.
        self.committed_at = Instant::now();
        let claims = self.conns.values().map(|conn| conn.claim);
        let height = claims.max().unwrap_or(Height::ZERO);
        let applied = self.wiring.status.borrow().applied;
        if height >= applied.plus(self.wiring.config.trigger_heights.max(1)) {
            let proven = false;
            self.tell(Event::Behind {
                height,
                applied,
                proven,
            });
        }
    }

    /// A peer has shown that the chain has been decided up to this height: consensus that is below
    /// is behind, however lately it has committed.
    pub(super) fn note_proven(&mut self, height: Height) {
        let config = &self.wiring.config;
        let again = config.trigger_timeout.max(LEAST_TRIGGER);
        let applied = self.wiring.status.borrow().applied;
        let is_news = self.proven_at.is_none_or(|at| at.elapsed() >= again);
        let far = height >= applied.plus(config.trigger_heights.max(1));
        if self.executor.is_taken() && is_news && far {
            self.proven_at = Some(Instant::now());
            let proven = true;
            self.tell(Event::Behind {
                height,
                applied,
                proven,
            });
        }
    }
}
