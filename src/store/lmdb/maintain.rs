//! An operator's work on a store while nothing runs: to make it smaller, take its state back, put
//! a damaged block right.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use heed::CompactionOption;

use super::{DATA_FILE, LmdbOptions, LmdbStore, failed};
use crate::chain::{ChainState, ValidatorSet};
use crate::ids::Height;
use crate::store::records::{key_height, next_height};
use crate::store::tables::{Log, ReadTables, Table};
use crate::store::{AppWrite, Batch, Store, StoreError, logic, records};

/// The file's name while it is written anew.
const COPY: &str = "data.mdb.tmp";

impl LmdbStore {
    /// Writes the database anew, without the pages that nothing is in any more, and gives its size
    /// before and after. A crash leaves the one or the other. Nothing else may have the store open,
    /// readers included: they would go on reading the old file.
    ///
    /// # Errors
    /// When the store cannot be opened, or the disk has no room for the copy.
    pub fn compact(dir: &Path, options: &LmdbOptions) -> Result<(u64, u64), StoreError> {
        let doing = || format!("compacting the store in {}", dir.display());
        let io = |why: std::io::Error| failed(doing())(why.into());
        let store = LmdbStore::open(dir, options)?;
        let (file, copy) = (dir.join(DATA_FILE), dir.join(COPY));
        let size = |file: &Path| std::fs::metadata(file).map(|m| m.len());
        let before = size(&file).map_err(io)?;
        let written = store
            .env
            .copy_to_path(&copy, CompactionOption::Enabled)
            .map_err(failed(doing()))?;
        // Durable before it takes the database's place.
        written.sync_all().map_err(io)?;
        let LmdbStore { env, writer, .. } = store;
        // Closed before the rename: whoever has the map would go on reading the old file.
        env.prepare_for_closing().wait();
        std::fs::rename(&copy, &file).map_err(io)?;
        std::fs::File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(io)?;
        drop(writer); // the lock is held to the end
        Ok((before, size(&file).map_err(io)?))
    }

    /// Puts a damaged block's bytes back where they lay, when they are those that were stored. Of
    /// an extended commit, which no hash covers, the one that is stored is kept if it is whole.
    ///
    /// # Errors
    /// When they are others, the block's record itself is damaged, or the disk fails.
    pub fn repair(
        &self,
        height: Height,
        raw: &Bytes,
        ext: Option<&Bytes>,
    ) -> Result<(), StoreError> {
        let _writing = self.writer()?;
        let t = self.reader()?;
        let Some(entry) = logic::entry(&t, height)? else {
            return Err(StoreError::Corrupt(format!(
                "block {height} is not in the store"
            )));
        };
        // As far as it can be read: its extended commit may be whole, and no
        // peer need have the same one.
        let stored = t
            .body(Log::Blocks, entry.place, entry.len())
            .unwrap_or_default();
        let (stored_raw, stored_ext) = if stored.len() == entry.len() {
            let (block, _) = entry.part_lens();
            (stored.slice(..block), stored.slice(block..))
        } else {
            (Bytes::new(), Bytes::new())
        };
        let given_ext = ext.cloned().unwrap_or_default();
        let joined = |raw: &Bytes, ext: &Bytes| {
            let mut body = BytesMut::with_capacity(raw.len() + ext.len());
            body.extend_from_slice(raw);
            body.extend_from_slice(ext);
            body.freeze()
        };
        // The sum covers block and extended commit together, so each side is tried with the other.
        let candidates = [
            (raw, &stored_ext),
            (raw, &given_ext),
            (&stored_raw, &given_ext),
        ];
        let whole = candidates
            .into_iter()
            .map(|(raw, ext)| joined(raw, ext))
            // The stored checksum decides, not the peer: only the very bytes that were proven fit.
            .find(|body| entry.record(height, body).is_ok());
        let Some(whole) = whole else {
            return Err(StoreError::Corrupt(format!(
                "block {height}: what was given for it is not what was stored"
            )));
        };
        let written = self.logs[Log::Blocks as usize].overwrite(entry.place, &whole);
        written.map_err(|why| failed(format!("repairing block {height}"))(why.into()))
    }

    /// Takes the chain state back to the one after an earlier block, and gives it. The blocks above
    /// stay: they are certified, and the next start executes them again. `app` takes a built-in
    /// application's state back with it, whole.
    ///
    /// # Errors
    /// When the height is not stored with the one above it, more of a built-in application lies in
    /// the store than `app` takes back, or the disk fails.
    pub fn roll_back(&self, to: Height, app: Vec<AppWrite>) -> Result<ChainState, StoreError> {
        let refuse = |why: String| StoreError::Failed {
            doing: format!("taking the state back to height {to}"),
            why,
        };
        let Some(now) = self.state()? else {
            return Err(refuse("there is no state".to_owned()));
        };
        let span = self.span()?;
        // The block above is needed for its header: it holds the app hash after `to`.
        if to < span.base.max(now.initial_height) || to >= now.last_height {
            return Err(refuse(format!(
                "the state is that of height {}, the store holds blocks {} to {}",
                now.last_height, span.base, span.stored
            )));
        }
        // Its state of that height is gone, and the chain's state alone would not fit the rest.
        if self.has_more_than(&app)? {
            return Err(refuse(
                "the state of the built-in application lies beside it and cannot be taken back: sync into a fresh home".to_owned(),
            ));
        }
        let block = |height: Height| {
            let missing = || StoreError::Corrupt(format!("block {height} is not in the store"));
            self.header(height)?.ok_or_else(missing)
        };
        let ((header, id), (above, _)) = (block(to)?, block(to.next())?);
        let next = next_height(to, now.initial_height);
        let (last_height_params_changed, params) = self.params_in_force(next)?;
        let (changed, next_validators) = self.exact_set(next.next())?;
        let state = ChainState {
            last_height: to,
            last_block_id: id,
            last_block_time: header.time,
            // `to` is at the initial height or above, so a block was signed
            // and its set is recorded.
            last_validators: Some(self.exact_set(to)?.1),
            validators: self.exact_set(next)?.1,
            next_validators,
            last_height_validators_changed: changed,
            params,
            last_height_params_changed,
            // From the header above, which was made with them.
            version_app: above.version_app,
            last_results_hash: above.last_results_hash.unwrap_or(now.last_results_hash),
            app_hash: above.app_hash.clone(),
            ..now
        };
        self.commit(Batch {
            state: Some(Arc::new(state.clone())),
            app,
            ..Batch::default()
        })?;
        Ok(state)
    }

    /// Whether a built-in application keeps anything but these pairs here.
    fn has_more_than(&self, app: &[AppWrite]) -> Result<bool, StoreError> {
        let t = self.reader()?;
        let mut from = vec![0];
        while let Some((key, _)) = t.at_or_above(Table::App, &from)? {
            if !app.iter().any(|(of, _)| of == key) {
                return Ok(true);
            }
            // The least key above this one.
            from = [key, &[0]].concat();
        }
        Ok(t.at_or_above(Table::AppLong, &[0])?.is_some())
    }

    /// The set of a height with the proposer priorities of that height, and the height since which
    /// it has these members.
    fn exact_set(&self, height: Height) -> Result<(Height, Arc<ValidatorSet>), StoreError> {
        let (since, mut set) = logic::recorded_set(&self.reader()?, height)?.ok_or_else(|| {
            StoreError::Corrupt(format!("the validator set of height {height} is not there"))
        })?;
        // Height by height, as the state came here: one call for all of them would centre the
        // priorities only once.
        for _ in 0..height.above(since) {
            set = set.increment(1);
        }
        Ok((since, Arc::new(set)))
    }

    fn params_in_force(
        &self,
        height: Height,
    ) -> Result<(Height, crate::chain::ConsensusParams), StoreError> {
        let t = self.reader()?;
        let missing =
            || StoreError::Corrupt(format!("the params of height {height} are not there"));
        let pair = t.at_or_below(Table::Params, &records::height_key(height))?;
        let (key, body) = logic::unseal_pair(Table::Params, pair.ok_or_else(missing)?)?;
        let params = records::read_params(body).zip(key_height(key));
        params
            .map(|(params, since)| (since, params))
            .ok_or_else(missing)
    }
}
