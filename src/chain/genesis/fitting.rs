//! The rules that a genesis file fits. The file states no version, but some versions refuse it, and
//! each has groups of params that others do not have.

use bytes::Bytes;

use super::{Genesis, GenesisError, Object};
use crate::chain::rules::{ExtendedCommits, ParamsForm, ParamsGroups, RuleSchedule, Rules};

/// A mark of params, by its group and, within it, its name; and whether a version has it.
type Mark = (&'static str, Option<&'static str>, fn(&ParamsForm) -> bool);

const MARKS: [Mark; 7] = [
    ("synchrony", None, |form| {
        form.groups == ParamsGroups::Features
    }),
    ("feature", None, |form| {
        form.groups == ParamsGroups::Features
    }),
    // Berachain's, which never has a block without PBTS.
    ("feature", Some("sbt_enable_height"), |form| {
        form.pbts_is_required
    }),
    ("authority", None, |form| {
        form.groups == ParamsGroups::Authority
    }),
    ("abci", None, |form| {
        matches!(form.groups, ParamsGroups::Abci | ParamsGroups::Authority)
    }),
    ("version", Some("app_version"), |form| {
        form.app_version_key == "app_version"
    }),
    ("version", Some("app"), |form| form.app_version_key == "app"),
];

impl Genesis {
    /// The rules under which this file may have been made: those that read it, and that have all
    /// that its params name. Often several: most versions share most of the file's form.
    ///
    /// # Errors
    /// When no rules read it: the error of the rules of CometBFT 0.38.
    pub fn fitting_rules(json: &Bytes) -> Result<Vec<Rules>, GenesisError> {
        // The unverified variant reads what 1.0 reads; only a person may choose it.
        let verified = |rules: &Rules| rules.extended_commits != ExtendedCommits::Shape;
        let doc = Object::of_genesis(json)?;
        let readable: Vec<Rules> = (Rules::ALL.into_iter().filter(verified))
            .filter(|rules| Genesis::of(&doc, json, &(*rules).into()).is_ok())
            .collect();
        if readable.is_empty() {
            Genesis::of(&doc, json, &RuleSchedule::default())?;
        }
        let params = Params::of(&doc)?;
        let marked = MARKS
            .into_iter()
            .filter(|(group, name, _)| params.has(group, *name));
        let marked: Vec<_> = marked.map(|(_, _, has)| has).collect();
        let mut fitting = readable.clone();
        fitting.retain(|rules| marked.iter().all(|has| has(&rules.params)));
        // Marks of several versions say nothing.
        Ok(if fitting.is_empty() {
            readable
        } else {
            fitting
        })
    }
}

/// The params of a file, unread.
struct Params(Vec<(String, Vec<String>)>);

impl Params {
    fn of(doc: &Object<'_>) -> Result<Self, GenesisError> {
        let params = match doc.get("consensus") {
            Some(_) => doc.object("consensus")?.object("params")?,
            None => doc.object("consensus_params")?,
        };
        let mut groups = Vec::new();
        for (name, _) in &params.entries {
            let members = params.object(name)?.entries;
            groups.push((
                name.clone(),
                members.into_iter().map(|(name, _)| name).collect(),
            ));
        }
        Ok(Params(groups))
    }

    fn has(&self, group: &str, name: Option<&str>) -> bool {
        let mut found = self.0.iter().filter(|(found, _)| found == group);
        found.any(|(_, members)| name.is_none_or(|name| members.iter().any(|m| m == name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(params: &str, key: &str) -> Vec<&'static str> {
        let (kind, value) = key.split_once(' ').unwrap();
        let json = format!(
            r#"{{"chain_id":"c","consensus_params":{params},"validators":[{{"power":"1","pub_key":{{"type":"{kind}","value":"{value}"}}}}]}}"#
        );
        let rules = Genesis::fitting_rules(&json.into()).unwrap();
        rules.into_iter().map(|rules| rules.name).collect()
    }

    fn params(block: &str, more: &str) -> String {
        format!(
            r#"{{"block":{{"max_bytes":"5000000","max_gas":"-1"{block}}},
            "evidence":{{"max_age_num_blocks":"9","max_age_duration":"9","max_bytes":"9"}},
            "validator":{{"pub_key_types":["ed25519"]}}{more}}}"#
        )
    }

    const ED25519: &str = "tendermint/PubKeyEd25519 gTvewt2cuRuPNm3D5BS58oHD8nJq5ksMHs69h0b6cns=";

    #[test]
    fn a_file_fits_the_rules_that_have_all_that_it_names() {
        let fits = |block, more| names(&params(block, more), ED25519);
        let from_037 = [
            "comet-0.37",
            "comet-0.38",
            "comet-0.39",
            "comet-0.40",
            "comet-1.0",
        ];
        assert_eq!(fits("", ""), from_037); // 0.34 wants `time_iota_ms`
        let iota = r#","time_iota_ms":"1000""#;
        assert_eq!(fits(iota, "")[0], "comet-0.34");
        assert_eq!(
            fits(iota, r#","version":{"app_version":"1"}"#),
            ["comet-0.34"]
        );
        assert_eq!(fits(iota, r#","version":{"app":"1"}"#), from_037);
        let abci = r#","abci":{"vote_extensions_enable_height":"5"}"#;
        assert_eq!(fits("", abci), ["comet-0.38", "comet-0.39", "comet-0.40"]);
        let authority = r#","authority":{"authority":""}"#;
        assert_eq!(fits("", authority), ["comet-0.39", "comet-0.40"]);
        let feature = r#","feature":{"pbts_enable_height":"0"}"#;
        assert_eq!(fits("", feature), ["comet-1.0"]);
        assert_eq!(fits("", r#","synchrony":{}"#), ["comet-1.0"]);
        // An `abci` beside it says that somebody has put the file together: no mark counts.
        assert_eq!(fits("", &format!("{feature}{abci}")), from_037);
    }

    #[cfg(feature = "secp256k1")]
    #[test]
    fn keys_tell_versions_apart() {
        let key = "tendermint/PubKeySecp256k1eth A1tVohPdFvSCAdc95Th4DmCT13jGzkkOq3EMsMzTFkVK";
        assert_eq!(names(&params("", ""), key), ["comet-0.40"]);
    }

    #[test]
    fn what_nobody_reads_is_refused() {
        let error = Genesis::fitting_rules(&Bytes::from_static(b"{}")).unwrap_err();
        assert!(error.to_string().contains("chain_id"), "{error}");
    }
}
