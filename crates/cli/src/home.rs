//! A home: the directory of one node.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blocksync::chain::genesis::GenesisError;
use blocksync::chain::{Genesis, RuleSchedule};

use blocksync::ids::Hash;
use blocksync::p2p::NodeKey;
use blocksync::service::AppStateSource;
use blocksync::store::{ChainMark, LmdbOptions, LmdbStore};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::args::ChosenRules;
use crate::auto;
use crate::failure::Failure;
use crate::outline::Outline;

/// `DIR`.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// A home that is open for writing, with the chain it is for.
pub(crate) struct Opened {
    /// The store; no other process can write to it.
    pub store: Arc<LmdbStore>,
    /// The chain's genesis, without the application's state.
    pub genesis: Genesis,
    /// The application's state of the genesis.
    pub app_state: AppStateSource,
    /// The chain's rules: those that were chosen, or, where none were, some that read the genesis.
    pub rules: RuleSchedule,
}

impl Home {
    /// The home in a directory that need not exist yet.
    pub(crate) fn at(dir: &Path) -> Self {
        Home {
            dir: dir.to_owned(),
        }
    }

    /// The address book of peer exchange.
    pub(crate) fn address_book(&self) -> PathBuf {
        self.dir.join("addrbook.json")
    }

    /// Where evidence of a fork goes.
    pub(crate) fn evidence(&self) -> PathBuf {
        self.dir.join("evidence")
    }

    /// The settings.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn genesis_file(&self) -> PathBuf {
        self.dir.join("genesis.json")
    }

    /// The rules that `--rules auto` has found. An application tells them only before its first
    /// block.
    fn rules_file(&self) -> PathBuf {
        self.dir.join("rules")
    }

    fn kept_rules(&self) -> Result<Option<RuleSchedule>, Failure> {
        let path = self.rules_file();
        let failed = |why: String| Failure::failed(format!("{}: {why}", path.display()));
        match fs::read_to_string(&path) {
            Ok(text) => RuleSchedule::parse(&text)
                .map(Some)
                .map_err(|e| failed(format!("{e}; without the file the rules are found anew"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e.to_string())),
        }
    }

    /// The directory of the store.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn key_file(&self) -> PathBuf {
        self.dir.join("node_key.json")
    }

    /// Refuses the home of a CometBFT node: nothing is written into it, and nothing of ours is in
    /// it.
    ///
    /// # Errors
    /// When it is one.
    pub(crate) fn refuse_foreign(&self) -> Result<(), Failure> {
        let there = |name: &str| self.dir.join(name).exists();
        // Any one of these is enough: a half-made home of a node is still somebody's.
        let theirs = there("config/genesis.json")
            || there("config/node_key.json")
            || ["blockstore", "state"]
                .iter()
                .any(|db| there(&format!("data/{db}.db")));
        if !theirs {
            return Ok(());
        }
        let dir = self.dir.display();
        Err(Failure::usage(format!(
            "{dir} is the home of a CometBFT node, and nothing is written into it. Use a --home of its own; \
             give it the chain with --genesis {dir}/config/genesis.json, and peers with --address-book {dir}/config/addrbook.json"
        )))
    }

    /// Refuses a directory that is not there.
    ///
    /// # Errors
    /// When it is not there, or a CometBFT node's.
    pub(crate) fn must_exist(&self) -> Result<(), Failure> {
        self.refuse_foreign()?;
        if self.dir.is_dir() {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} is not there: `blocksync init` makes a home",
            self.dir.display()
        )))
    }

    /// Refuses a store that another process has open, for writing or for reading: LMDB locks a byte
    /// of its lock file for as long.
    ///
    /// # Errors
    /// When one has.
    pub(crate) fn must_be_alone(&self) -> Result<(), Failure> {
        let path = self.data().join("lock.mdb");
        let Ok(file) = File::options().read(true).write(true).open(&path) else {
            return Ok(()); // nobody has ever opened it
        };
        // LMDB's readers hold a shared lock, so an exclusive one fails beside any of them.
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!(
                "{} is in use by another process: stop it first",
                self.dir.display()
            ))
        })
    }

    /// Opens it for writing. The first time it takes a copy of the genesis file that is given;
    /// later the two must be equal.
    ///
    /// A genesis file that cannot be read leaves nothing behind, not even the directory.
    ///
    /// # Errors
    /// No genesis, a malformed or another one; rules that are to be found and cannot; another
    /// process writes to the home; the store is of another chain or damaged.
    pub(crate) fn open(
        &self,
        given: Option<&Path>,
        rules: &ChosenRules,
    ) -> Result<Opened, Failure> {
        self.open_with(given, Some(rules))
    }

    /// Opens a home that has a genesis, for what needs no rules.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub(crate) fn open_again(&self) -> Result<Opened, Failure> {
        self.open_with(None, None)
    }

    /// [`Home::open`], where rules may not be known.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub(crate) fn open_with(
        &self,
        given: Option<&Path>,
        rules: Option<&ChosenRules>,
    ) -> Result<Opened, Failure> {
        self.refuse_foreign()?;
        let kept = self.genesis_file().exists();
        let (file, json, digest) = match given {
            Some(file) => {
                // Read whole, since it may be packed, and `InitChain` needs the
                // application's state from it.
                let json = read(file)?;
                let digest = Hash(Sha256::digest(&json).into());
                (file.to_owned(), json, digest)
            }
            None if kept => {
                let (json, digest) = self.outline()?;
                (self.genesis_file(), json, digest)
            }
            None => {
                return Err(Failure::usage(format!(
                    "{} has no genesis.json yet: give the chain's with --genesis FILE, once",
                    self.dir.display()
                )));
            }
        };
        let chosen = rules;
        let (mut genesis, rules) = parse(&file, &json, chosen, self.kept_rules()?)?;
        // By hash and not by content: files of another formatting count as
        // others, to be on the safe side.
        if kept && file != self.genesis_file() && digest != self.kept_digest()? {
            return Err(self.other_genesis(&file, &genesis));
        }
        let mark = ChainMark {
            chain_id: Bytes::from(genesis.chain_id.clone()),
            genesis: digest,
        };
        fs::create_dir_all(&self.dir)
            .map_err(|e| Failure::failed(format!("{}: {e}", self.dir.display())))?;
        let store = LmdbStore::open(&self.data(), &LmdbOptions::default())?;
        // Before the file is written: a kill in between leaves a home that takes this genesis
        // alone.
        store.claim(&mark)?;
        if !kept {
            write_atomically(&self.genesis_file(), &json)?;
        }
        if matches!(chosen, Some(ChosenRules::Auto(_))) && !self.rules_file().exists() {
            // Later starts must not find others: by then the application has executed blocks.
            write_atomically(&self.rules_file(), format!("{rules}\n").as_bytes())?;
        }
        // Others have to be told our id before we first listen.
        self.node_key()?;
        // `InitChain` needs it at the first start, and it is here. Later it is read again.
        let state = std::mem::take(&mut genesis.app_state);
        Ok(Opened {
            app_state: self.app_state((!kept).then_some(state)),
            store: Arc::new(store),
            genesis,
            rules,
        })
    }

    /// Opens a store that `end_import` makes the home's. It goes on with the rest of
    /// an interrupted import.
    ///
    /// The genesis is the file's or, without one, `otherwise`.
    ///
    /// # Errors
    /// When the home has a store already, there is no genesis, or it is malformed or another one
    /// than that of the import before.
    pub(crate) fn begin_import(
        &self,
        file: Option<&Path>,
        otherwise: Option<&[u8]>,
        rules: &ChosenRules,
    ) -> Result<Opened, Failure> {
        self.refuse_foreign()?;
        if self.data().exists() {
            return Err(Failure::failed(format!(
                "{} has a store already: import into another --home",
                self.dir.display()
            )));
        }
        let json = match (file, otherwise) {
            (Some(file), _) => read(file)?,
            (None, Some(json)) => Bytes::copy_from_slice(json),
            (None, None) => {
                return Err(Failure::usage(
                    "the node's home has no config/genesis.json: give the chain's with --genesis FILE",
                ));
            }
        };
        let named = file.unwrap_or(Path::new("the node's genesis"));
        let (mut genesis, rules) = parse(named, &json, Some(rules), None)?;
        genesis.app_state = Bytes::new(); // a store that is imported is past it
        let digest = Hash(Sha256::digest(&json).into());
        if self.genesis_file().exists() && digest != self.kept_digest()? {
            return Err(self.other_genesis(file.unwrap_or(&self.genesis_file()), &genesis));
        }
        let mark = ChainMark {
            chain_id: Bytes::from(genesis.chain_id.clone()),
            genesis: digest,
        };
        fs::create_dir_all(&self.dir)
            .map_err(|e| Failure::failed(format!("{}: {e}", self.dir.display())))?;
        // Before the store, so that an interrupted import finds which genesis it was for.
        write_atomically(&self.genesis_file(), &json)?;
        let store = LmdbStore::open(&self.unfinished(), &LmdbOptions::default())?;
        store.claim(&mark)?;
        Ok(Opened {
            store: Arc::new(store),
            app_state: self.app_state(None),
            genesis,
            rules,
        })
    }

    /// Makes the imported store the home's own.
    ///
    /// # Errors
    /// When the disk does not let us.
    pub(crate) fn end_import(&self, opened: Opened) -> Result<(), Failure> {
        // Closes the database: its files must not be open under the old name.
        drop(opened);
        let renamed = fs::rename(self.unfinished(), self.data())
            .and_then(|()| File::open(&self.dir)?.sync_all());
        renamed.map_err(|e| Failure::failed(format!("{}: {e}", self.data().display())))
    }

    /// A store that is being imported.
    fn unfinished(&self) -> PathBuf {
        self.dir.join("data.import")
    }

    /// Opens the store for reading, beside a process that writes to it.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub(crate) fn open_to_read(&self) -> Result<LmdbStore, Failure> {
        self.refuse_foreign()?;
        if !self.data().exists() {
            return Err(Failure::failed(format!(
                "{} holds no store yet: `blocksync sync` or `blocksync import` makes one",
                self.dir.display()
            )));
        }
        Ok(LmdbStore::open_read_only(&self.data())?)
    }

    /// The genesis that the home keeps, without knowing the chain's rules: its params are not for
    /// use.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub(crate) fn genesis(&self) -> Result<Genesis, Failure> {
        self.genesis_by(None).map(|(genesis, _)| genesis)
    }

    /// The genesis that the home keeps, and the chain's rules: those that were chosen, or, where
    /// none were, some that read the genesis.
    ///
    /// # Errors
    /// When there is none, it is malformed, or the rules are to be found and cannot.
    pub(crate) fn genesis_by(
        &self,
        rules: Option<&ChosenRules>,
    ) -> Result<(Genesis, RuleSchedule), Failure> {
        self.refuse_foreign()?;
        let file = self.genesis_file();
        if !file.exists() {
            return Err(Failure::failed(format!(
                "{}: there is none",
                file.display()
            )));
        }
        parse(&file, &self.outline()?.0, rules, self.kept_rules()?)
    }

    /// The genesis that the home keeps without the application's state, which is not held in memory
    /// for it, and SHA-256 of the whole. It is taken apart once: later only its hash is needed.
    fn outline(&self) -> Result<(Bytes, Hash), Failure> {
        let (file, kept) = (self.genesis_file(), self.dir.join("genesis.outline"));
        let digest = self.kept_digest()?;
        if let Some(json) = Outline::kept(&kept, &digest) {
            return Ok((json, digest));
        }
        if let Ok(outline) = Outline::read(&file) {
            // A home that cannot be written to is read all the same.
            let _ = write_atomically(&kept, &outline.to_be_kept());
            return Ok((outline.json, outline.digest));
        }
        // The reader of the whole file says why it is none.
        let json = read(&file)?;
        let digest = Hash(Sha256::digest(&json).into());
        Ok((json, digest))
    }

    /// The application's state: `held` once, then as the file has it.
    fn app_state(&self, held: Option<Bytes>) -> AppStateSource {
        let (file, held) = (self.genesis_file(), Mutex::new(held));
        AppStateSource::new(move || {
            // Taken, and so freed after the first use. A poisoned lock holds the same bytes.
            let held = held.lock().unwrap_or_else(PoisonError::into_inner).take();
            let read_again = || {
                let json = Bytes::from(fs::read(&file)?);
                let (genesis, _) = Genesis::read_by_any(&json).map_err(io::Error::other)?;
                Ok(genesis.app_state)
            };
            held.map_or_else(read_again, Ok)
        })
    }

    /// The genesis file that the home keeps.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(crate) fn genesis_json(&self) -> Result<Bytes, Failure> {
        read(&self.genesis_file())
    }

    /// The node's key, made now if there is none.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn node_key(&self) -> Result<NodeKey, Failure> {
        NodeKey::load_or_create(&self.key_file()).map_err(|e| Failure::failed(e.to_string()))
    }

    /// The node's key, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn node_key_if_any(&self) -> Result<Option<NodeKey>, Failure> {
        if !self.key_file().exists() {
            return Ok(None);
        }
        let key = NodeKey::load(&self.key_file());
        key.map(Some).map_err(|e| Failure::failed(e.to_string()))
    }

    /// SHA-256 of the genesis that the home keeps, which is not held in memory for it.
    fn kept_digest(&self) -> Result<Hash, Failure> {
        let path = self.genesis_file();
        let failed = |e: io::Error| Failure::failed(format!("{}: {e}", path.display()));
        let (mut file, mut hasher) = (File::open(&path).map_err(failed)?, Sha256::new());
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(failed)? {
                0 => return Ok(Hash(hasher.finalize().into())),
                n => hasher.update(&piece[..n]),
            }
        }
    }

    fn other_genesis(&self, file: &Path, given: &Genesis) -> Failure {
        let kept = self.genesis().map_or("no chain".to_owned(), |g| g.chain_id);
        Failure::failed(format!(
            "{} is of chain {kept} and keeps its genesis.json; {} is another one, of chain {}: use another --home, or leave --genesis out",
            self.dir.display(),
            file.display(),
            given.chain_id
        ))
    }
}

/// The largest genesis that a packed file may hold, in bytes.
const MAX_UNPACKED: u64 = 16 << 30;

/// A genesis file, unpacked if it is one of gzip.
fn read(file: &Path) -> Result<Bytes, Failure> {
    let failed = |e: io::Error| Failure::failed(format!("{}: {e}", file.display()));
    let bytes = fs::read(file).map_err(failed)?;
    // Networks publish large genesis files packed. JSON never begins with gzip's mark.
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.into());
    }
    let mut unpacked = Vec::new();
    // Several packed files in a row are one stream, as for `gunzip`.
    let mut packed = MultiGzDecoder::new(&bytes[..]).take(MAX_UNPACKED);
    packed.read_to_end(&mut unpacked).map_err(failed)?;
    if packed.limit() == 0 {
        let why = format!("holds more than {MAX_UNPACKED} bytes, which is no genesis");
        return Err(Failure::failed(format!("{}: {why}", file.display())));
    }
    Ok(unpacked.into())
}

/// Reads a genesis by the rules of its chain. Where none were chosen, by those that take it: what
/// all versions read alike is then for use, which the params are not. `kept` are those that were
/// found before.
fn parse(
    file: &Path,
    json: &Bytes,
    rules: Option<&ChosenRules>,
    kept: Option<RuleSchedule>,
) -> Result<(Genesis, RuleSchedule), Failure> {
    let failed = |e: GenesisError| Failure::failed(format!("{}: {e}", file.display()));
    let rules = match rules {
        Some(ChosenRules::Given(rules)) => rules.clone(),
        Some(ChosenRules::Auto(asked)) => {
            let fitting = Genesis::fitting_rules(json).map_err(failed)?;
            auto::decide(&fitting, kept, asked.as_ref()).map_err(Failure::usage)?
        }
        None => return Genesis::read_by_any(json).map_err(failed),
    };
    let genesis = Genesis::read(json, &rules).map_err(failed)?;
    Ok((genesis, rules))
}

/// Writes a file that is there whole or not at all, also after a power loss.
///
/// # Errors
/// When the disk does not let us; nothing is left behind then.
pub(crate) fn write_atomically(file: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut temporary = Temporary::beside(file)?;
    temporary.write_all(content)?;
    temporary.keep()
}

/// A file under a temporary name, until it is whole.
pub(crate) struct Temporary {
    to: PathBuf,
    path: PathBuf,
    file: io::BufWriter<File>,
    kept: bool,
}

impl Temporary {
    /// A new file in the directory of `to`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn beside(to: &Path) -> Result<Self, Failure> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        // With our process id: two exports to the same file do not write into each other.
        name.push(format!(".{}.tmp", std::process::id()));
        let path = to.with_file_name(name);
        let file =
            File::create(&path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        Ok(Temporary {
            to: to.to_owned(),
            path,
            file: io::BufWriter::with_capacity(1 << 20, file),
            kept: false,
        })
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// When the disk does not let us.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|e| self.failed(&e))
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// When the disk does not let us; nothing is left behind then.
    pub(crate) fn keep(mut self) -> Result<(), Failure> {
        let named = (|| {
            self.file.flush()?;
            // Before the name: after a power loss a file under its name must not be empty.
            self.file.get_ref().sync_all()?;
            fs::rename(&self.path, &self.to)
        })();
        named.map_err(|e| self.failed(&e))?;
        self.kept = true;
        // The name must survive a power loss as the content does.
        let dir = self.to.parent().filter(|dir| *dir != Path::new(""));
        let synced = File::open(dir.unwrap_or(Path::new("."))).and_then(|d| d.sync_all());
        synced.map_err(|e| self.failed(&e))
    }

    fn failed(&self, why: &io::Error) -> Failure {
        Failure::failed(format!("writing {}: {why}", self.to.display()))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is harmless; the failure that brought us here is what is reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use blocksync::chain::Rules;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let mut half = Temporary::beside(&file).unwrap();
        half.write_all(b"half").unwrap();
        drop(half);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_atomically(&file, b"whole").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    /// It may have hundreds of megabytes: a start holds none of it, but the first before
    /// `InitChain`.
    #[tokio::test]
    async fn the_applications_state_of_a_genesis_is_read_when_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let file = dir.path().join("genesis.json");
        fs::write(&file, r#"{"chain_id":"large","app_state":{"a":1}}"#).unwrap();
        let opened = home.open_with(Some(&file), None).unwrap();
        assert_eq!(opened.genesis.app_state, "");
        // The second time an application asks it comes from the home.
        for _ in 0..2 {
            assert_eq!(opened.app_state.read().await.unwrap(), r#"{"a":1}"#);
        }
        drop(opened);
        fs::remove_file(file).unwrap();
        let outline = home.dir.join("genesis.outline");
        assert!(!outline.exists());
        for _ in 0..2 {
            let opened = home.open_again().unwrap();
            assert_eq!(opened.genesis.app_state, "");
            assert!(outline.exists());
        }
        let opened = home.open_again().unwrap();
        assert_eq!(opened.app_state.read().await.unwrap(), r#"{"a":1}"#);
        assert_eq!(home.genesis().unwrap().app_state, "");
        // Once more it is the same file, or another chain's.
        drop(opened);
        fs::write(
            home.genesis_file(),
            r#"{"chain_id":"other","app_state":{}}"#,
        )
        .unwrap();
        let error = home.open_again().err().unwrap();
        assert!(error.message.contains("other"), "{}", error.message);
        fs::write(home.genesis_file(), "<html>").unwrap();
        let error = home.open_again().err().unwrap();
        assert!(
            error.message.contains("a page of HTML"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_packed_genesis_is_the_same_as_the_one_inside() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let json = br#"{"genesis_time":"2026-01-01T00:00:00Z","chain_id":"packed","app_state":{}}"#;
        let home = Home::at(&dir.path().join("home"));
        let packed = file("genesis.json.gz", &gzip(json));
        assert_eq!(
            home.open_with(Some(&packed), None)
                .unwrap()
                .genesis
                .chain_id,
            "packed"
        );
        assert_eq!(fs::read(home.genesis_file()).unwrap(), json);
        home.open_with(Some(&file("genesis.json", json)), None)
            .unwrap();
        home.open_with(Some(&packed), None).unwrap();
        assert_eq!(
            home.open_with(None, None).unwrap().genesis.chain_id,
            "packed"
        );
        let other = file(
            "other.json",
            &json.map(|b| if b == b'6' { b'7' } else { b }),
        );
        let said = home.open_with(Some(&other), None).err().unwrap().message;
        assert!(said.contains("is another one"), "{said}");
    }

    #[test]
    fn rules_are_found_where_the_genesis_says_enough() {
        let dir = tempfile::tempdir().unwrap();
        let params = |more: &str| {
            format!(
                r#"{{"block":{{"max_bytes":"100","max_gas":"-1"}},
                "evidence":{{"max_age_num_blocks":"9","max_age_duration":"9","max_bytes":"9"}},
                "validator":{{"pub_key_types":["ed25519"]}}{more}}}"#
            )
        };
        let open = |name: &str, more: &str, rules: &ChosenRules| {
            let (file, params) = (dir.path().join(format!("{name}.json")), params(more));
            let json = format!(r#"{{"chain_id":"{name}","consensus_params":{params}}}"#);
            fs::write(&file, json).unwrap();
            Home::at(&dir.path().join(name)).open(Some(&file), rules)
        };
        let features = r#","feature":{"vote_extensions_enable_height":"7"}"#;
        let opened = open("one", features, &ChosenRules::Auto(None)).unwrap();
        assert_eq!(opened.rules, Rules::COMET_100.into());
        assert_eq!(opened.genesis.params.vote_extensions_enable_height, 7);
        let said = open("several", "", &ChosenRules::Auto(None)).err().unwrap();
        assert!(
            said.message.contains("comet-0.37, comet-0.38"),
            "{}",
            said.message
        );
        assert!(
            said.message.contains("--rules comet-0.37"),
            "{}",
            said.message
        );
        assert!(!dir.path().join("several").exists());
        // Rules that are given decide, whatever the file says.
        let given = ChosenRules::Given(Rules::COMET_038.into());
        let opened = open("given", features, &given).unwrap();
        assert_eq!(opened.genesis.params.vote_extensions_enable_height, 0);
    }

    #[test]
    fn a_bad_genesis_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (home, file) = (dir.path().join("home"), dir.path().join("genesis.json"));
        fs::write(&file, b"{\"chain_id\": 5}").unwrap();
        let said = Home::at(&home).open_with(Some(&file), None).err().unwrap();
        assert!(said.message.contains("genesis.json"), "{}", said.message);
        assert!(!home.exists());
        // Packed files are read, and what they hold is judged.
        fs::write(&file, gzip(b"{\"chain_id\": 6}")).unwrap();
        let said = Home::at(&home).open_with(Some(&file), None).err().unwrap();
        assert!(said.message.contains("chain_id"), "{}", said.message);
        let said = Home::at(&home).open_with(None, None).err().unwrap();
        assert!(said.message.contains("--genesis"), "{}", said.message);
        assert!(!home.exists());
    }
}
