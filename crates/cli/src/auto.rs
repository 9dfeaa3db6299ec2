//! `--rules auto`: the rules that the genesis and the application leave, or the question which.

use blocksync::app::{AnyApp, Spoken};
use blocksync::chain::{AbciVersion, RuleSchedule, Rules};
use blocksync::ids::Height;
use tokio_util::sync::CancellationToken;

use crate::args::{Chain, ChosenRules};
use crate::failure::Failure;
use crate::node;

/// An application's answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Where it listens.
    pub address: String,
    /// The answer.
    pub spoken: Spoken,
}

/// Asks the application, where the rules are to be found and it is behind a socket: the built-in
/// ones take blocks of every version.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn ask(chain: &mut Chain, stop: &CancellationToken) -> Result<(), Failure> {
    if !matches!(chain.rules, ChosenRules::Auto(_)) {
        return Ok(());
    }
    // A client for this one question: asking leaves its connection unusable,
    // and `sync` makes another.
    let AnyApp::Abci(client) = node::application(chain)? else {
        return Ok(());
    };
    let spoken = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Failure::failed("stopped before it had begun")),
        spoken = client.versions() => spoken.map_err(|e| Failure::failed(e.to_string()))?,
    };
    let address = chain.app.clone();
    chain.rules = ChosenRules::Auto(Some(Asked { address, spoken }));
    Ok(())
}

/// The chain's rules: those that were found before, those that alone fit the genesis, or those of
/// them whose ABCI an application speaks that has executed nothing yet.
///
/// # Errors
/// The question, with the choices and all that is known of them.
pub(crate) fn decide(
    fitting: &[Rules],
    kept: Option<RuleSchedule>,
    asked: Option<&Asked>,
) -> Result<RuleSchedule, String> {
    // Found once, they hold: after the first block the application no longer tells
    // which rules it began with.
    if let Some(kept) = kept {
        return goes_on(kept, asked);
    }
    if let [only] = fitting {
        return Ok((*only).into());
    }
    let begins = format!("the genesis fits several versions: {}", names(fitting));
    let Some(asked) = asked else {
        return Err(question(&begins, fitting));
    };
    let spoken: Vec<Rules> = spoken_by(fitting, asked);
    let (is_new, what) = (asked.spoken.height == Height::ZERO, asked.describe());
    match &spoken[..] {
        // An application that has executed nothing begins at the first height, so
        // its ABCI is that height's.
        [only] if is_new => Ok((*only).into()),
        [] => Err(question(
            &format!("{begins}; but {what}, which none of them does: is it this chain's?"),
            fitting,
        )),
        several if is_new => Err(question(
            &format!("{begins}; and {what}: that leaves {}", names(several)),
            several,
        )),
        // Nothing tells which rules it has executed the blocks below by.
        some => {
            let from = asked.spoken.height.next();
            let last = some[0];
            Err(format!(
                "--rules auto: {begins}; and {what}: from block {from} on that leaves {}. The blocks up to {} may have been \
                 of other rules: name those that the chain began with, and where it has changed each from its height on, as in \
                 --rules {last}, or --rules 1:{},{from}:{last}",
                names(some),
                asked.spoken.height,
                fitting[0]
            ))
        }
    }
}

/// The rules of a home, if the application's next block can be of them.
fn goes_on(kept: RuleSchedule, asked: Option<&Asked>) -> Result<RuleSchedule, String> {
    let Some(asked) = asked else {
        return Ok(kept);
    };
    let next = asked.spoken.height.next();
    if asked.spoken.versions.contains(&kept.at(next).abci) {
        return Ok(kept);
    }
    // Not only those that fit the genesis: a chain that has upgraded may have left them.
    let others = spoken_by(&Rules::ALL, asked);
    let (what, first) = (asked.describe(), others.first().unwrap_or(kept.at(next)));
    let known = match kept.to_string() {
        // The message shows a value for `--rules` that can be pasted: the known
        // heights and the new one.
        list if list.contains(':') => list,
        one => format!("1:{one}"),
    };
    Err(format!(
        "--rules auto: the chain was found to follow {kept} (the home's file rules says so); but {what}: that would be {}. If the chain has changed its rules, \
         name them from their height on, as in --rules {known},{next}:{first}; otherwise start the application for block {next}",
        names(&others)
    ))
}

fn question(known: &str, choices: &[Rules]) -> String {
    let first = choices[0];
    format!(
        "--rules auto: {known}. Name the one that its chain began with, as in --rules {first}, and where it has changed each from its \
         height on, as in --rules 1:{first},4000000:comet-0.40. Wrong ones stop at the first block that breaks them, and the same home \
         goes on under the right ones"
    )
}

fn names(rules: &[Rules]) -> String {
    let names: Vec<_> = rules.iter().map(|rules| rules.name).collect();
    names.join(", ")
}

fn spoken_by(rules: &[Rules], asked: &Asked) -> Vec<Rules> {
    let speaks = |rules: &&Rules| asked.spoken.versions.contains(&rules.abci);
    rules.iter().filter(speaks).copied().collect()
}

impl Asked {
    fn describe(&self) -> String {
        let stands = match self.spoken.height {
            Height::ZERO => "has executed nothing".to_owned(),
            height => format!("has executed block {height}"),
        };
        let versions = &self.spoken.versions;
        let speaks: Vec<_> = versions.iter().map(AbciVersion::to_string).collect();
        let untold = if speaks.len() > 1 {
            ", which its answers do not tell apart"
        } else {
            ""
        };
        let (address, speaks) = (&self.address, speaks.join(" or "));
        format!("the application at {address} {stands} and speaks the ABCI of {speaks}{untold}")
    }
}

#[cfg(test)]
mod tests {
    use AbciVersion::{V034, V037, V038, V100};

    use super::*;

    const FITTING: [Rules; 5] = [
        Rules::COMET_034,
        Rules::COMET_037,
        Rules::COMET_038,
        Rules::COMET_040,
        Rules::COMET_100,
    ];

    fn asked(versions: &[AbciVersion], height: u64) -> Asked {
        Asked {
            address: "tcp://a:1".to_owned(),
            spoken: Spoken {
                versions: versions.to_vec(),
                height: Height::new(height),
            },
        }
    }

    fn decided(versions: &[AbciVersion], height: u64) -> Result<String, String> {
        decide(&FITTING, None, Some(&asked(versions, height))).map(|rules| rules.to_string())
    }

    fn refused(found: Result<RuleSchedule, String>, parts: &[&str]) {
        let said = found.unwrap_err();
        for part in parts {
            assert!(said.contains(part), "{said} lacks {part}");
        }
    }

    #[test]
    fn an_application_that_has_executed_nothing_decides_where_its_version_is_one() {
        assert_eq!(decided(&[V034], 0).unwrap(), "comet-0.34");
        assert_eq!(decided(&[V037], 0).unwrap(), "comet-0.37");
        let said = decided(&[V038, V100], 0).unwrap_err();
        for part in [
            "has executed nothing and speaks the ABCI of 0.38 or 1.0, which",
            "that leaves comet-0.38, comet-0.40, comet-1.0. Name the one",
            "as in --rules comet-0.38, and",
        ] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
        let narrow = [Rules::COMET_037, Rules::COMET_040];
        let found = decide(&narrow, None, Some(&asked(&[V038, V100], 0)));
        assert_eq!(found.unwrap().to_string(), "comet-0.40");
        let found = decide(&narrow, None, Some(&asked(&[V034], 0)));
        refused(found, &["comet-0.37, comet-0.40; but the", "none of them"]);
    }

    #[test]
    fn an_application_says_nothing_of_the_blocks_before_it() {
        let said = decided(&[V037], 99).unwrap_err();
        for part in [
            "has executed block 99 and speaks the ABCI of 0.37: from block 100 on that leaves comet-0.37.",
            "--rules comet-0.37, or --rules 1:comet-0.34,100:comet-0.37",
        ] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
    }

    #[test]
    fn without_an_application_the_genesis_decides_or_the_question_is_asked() {
        let only = decide(&[Rules::COMET_040], None, None).unwrap();
        assert_eq!(only.to_string(), "comet-0.40");
        let found = decide(&FITTING, None, None);
        refused(found, &["fits several versions: comet-0.34, comet-0.37"]);
    }

    #[test]
    fn what_was_found_holds_until_the_application_is_of_another_version() {
        let kept = RuleSchedule::from(Rules::COMET_037);
        let again = |asked: Option<&Asked>| decide(&FITTING, Some(kept.clone()), asked);
        assert_eq!(again(None).unwrap(), kept);
        assert_eq!(again(Some(&asked(&[V037], 99))).unwrap(), kept);
        let found = again(Some(&asked(&[V038, V100], 99)));
        refused(
            found,
            &[
                "was found to follow comet-0.37 (the home's file rules says so); but the",
                "--rules 1:comet-0.37,100:comet-0.38;",
                "start the application for block 100",
            ],
        );
    }
}
