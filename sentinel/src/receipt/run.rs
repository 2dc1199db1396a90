//! The command `sentinel receipt`: where the file comes from, under which key
//! it is judged, and what is said of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::key::VerifierKey;
use protocol::policy::Policy;
use reqwest::Url;

use super::{MAX_FILE, Unverified, uuid_v7};
use crate::anchored::Cover;
use crate::audit::Signed;
use crate::cli::Common;
use crate::fetch::{self, Caches, Client, NoAnswer};
use crate::follow::Findings;
use crate::pass::{SessionError, agreed, unix_time};
use crate::quorum;
use crate::report::{Evidence, Place, Report, Verdict};
use crate::trust;
use crate::watch::{UseError, client, cover_by_anchors, first_contact, state_dir};

/// How long a receipt's entry may take to come under a checkpoint.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks for what is not there yet.
const POLL: Duration = Duration::from_millis(400);

/// The path of receipts below a log's address.
const RECEIPTS: &str = "api/receipts/";

/// Where a receipt file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// On this machine.
    File(PathBuf),
    /// In the log, under this receipt id; the log's address, if it was in the argument.
    Log(String, Option<Url>),
}

impl Source {
    /// Reads the argument: a receipt's address, a receipt id, else a file's path.
    ///
    /// # Errors
    /// An address that is no receipt's.
    pub fn parse(text: &str) -> Result<Self, String> {
        if uuid_v7(text).is_some() {
            return Ok(Self::Log(text.into(), None));
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self::File(text.into()));
        }
        let (whole, _) = text.split_once('?').unwrap_or((text, ""));
        let receipt = whole
            .rsplit_once(RECEIPTS)
            .filter(|(_, id)| uuid_v7(id).is_some());
        let (log, id) =
            receipt.ok_or_else(|| format!("{text} is not <log>/{RECEIPTS}<receipt id>"))?;
        let log = fetch::log_url(log).map_err(|error| error.to_string())?;
        Ok(Self::Log(id.into(), Some(log)))
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    index: Option<u64>,
    /// The checkpoint that covers the entry.
    under: Option<Signed>,
    findings: Findings,
    cosigned_by: Option<Vec<String>>,
}

/// Checks a receipt; online if the log's address is known, unless `offline`.
///
/// # Errors
/// Wrong use.
pub async fn run(
    common: &Common,
    source: Source,
    log: Option<Url>,
    offline: bool,
    policy: Option<&Policy>,
) -> Result<Report, UseError> {
    let started = Instant::now();
    let log = match &source {
        Source::Log(_, Some(log)) => Some(log.clone()),
        _ => log,
    };
    let dir = match &log {
        Some(log) => Some(state_dir(common, log)?),
        None => common.state.clone(),
    };
    let log = log.filter(|_| !offline || matches!(source, Source::Log(..)));
    let client = log.as_ref().map(|log| client(common, log)).transpose()?;
    let patience = common.patience.unwrap_or(PATIENCE);
    let unverified = match (&source, &client) {
        (Source::File(path), _) => Ok(Unverified::read(path)?),
        (Source::Log(id, _), Some(client)) => download(client, id, patience).await,
        (Source::Log(..), None) => return Err(UseError::NoLog),
    };
    let client = client.filter(|_| !offline);
    let (key, remembered) = known(common, dir.as_deref())?;
    let key = match (key, &client) {
        (Some(key), _) => Ok(key),
        (None, Some(client)) => first_contact(common, client).await,
        (None, None) => return Err(UseError::NoKey),
    };
    let desk = Desk {
        client: client.as_ref(),
        policy,
        patience,
        remembered,
    };
    let mut found = Found::default();
    let reason = match (unverified, &key) {
        (Ok(unverified), Ok(key)) => desk.check(unverified, key, &mut found).await.err(),
        (Err(why), _) => Some(why),
        (_, Err(why)) => Some(why.clone()),
    };
    let mut cover = Cover::default();
    let log_verified = reason.is_none() && found.findings.is_empty();
    let covered = found
        .under
        .as_ref()
        .zip(found.index)
        .filter(|_| log_verified);
    if let (Some(covered), Ok(key), Some(client)) = (covered, &key, &client) {
        cover = cover_by_anchors(common, client, key, covered, patience).await?;
    }
    let key = key.ok();
    let evidence = Evidence {
        dir: dir.unwrap_or_else(|| PathBuf::from(".")).join("evidence"),
        log: log.as_ref().map_or_else(String::new, Url::to_string),
        vkey: key.as_ref().map(VerifierKey::to_string),
        time: unix_time(),
    };
    let verdict = match (&reason, found.findings.is_empty()) {
        (_, false) => Verdict::Misbehaviour,
        (Some(_), true) => Verdict::NoVerdict,
        (None, true) => Verdict::Verified,
    };
    let (verdict, reason) = cover.settle(verdict, reason);
    found.findings.append(cover.findings);
    let under = found.under.as_ref();
    Ok(Report {
        verdict,
        log: evidence.log.clone(),
        origin: key.as_ref().map(|key| key.origin().to_string()),
        vkey: evidence.vkey.clone(),
        size: under.map_or(0, Signed::size),
        root: under.map(|signed| signed.root().to_string()),
        new_entries: 0,
        took: started.elapsed(),
        findings: evidence.keep(&found.findings),
        reason,
        receipt: found.index.map(|index| Place {
            index,
            asked: client.is_some(),
        }),
        cosigned_by: found.cosigned_by,
        peers: None,
        wallet: None,
        contracts: 0,
        anchored: cover.anchored,
        unwatched: vec![],
        log_verified,
    })
}

/// The key that is given or pinned, and the checkpoint accepted last.
fn known(
    common: &Common,
    dir: Option<&Path>,
) -> Result<(Option<VerifierKey>, Option<Signed>), UseError> {
    let stored = match dir {
        Some(dir) => trust::load(dir).map_err(SessionError::from)?,
        None => None,
    };
    let (pinned, remembered) =
        stored.map_or((None, None), |(key, trusted)| (Some(key), trusted.accepted));
    let key = match dir {
        Some(dir) => agreed(common.vkey.clone(), pinned, dir)?,
        None => common.vkey.clone(),
    };
    Ok((key, remembered))
}

struct Desk<'a> {
    client: Option<&'a Client>,
    policy: Option<&'a Policy>,
    patience: Duration,
    remembered: Option<Signed>,
}

impl Desk<'_> {
    /// Checks a file offline, then asks the log.
    ///
    /// # Errors
    /// Why there is no verdict, unless something was found.
    async fn check(
        self,
        unverified: Unverified,
        key: &VerifierKey,
        found: &mut Found,
    ) -> Result<(), String> {
        let genuine = unverified.verify(key);
        let genuine = genuine
            .map_err(|wrong| format!("the file is no genuine receipt of this log: {wrong}"))?;
        found.index = Some(genuine.index());
        let proven = genuine.proof(key);
        let proven =
            proven.map_err(|wrong| format!("the file's proof does not show its entry: {wrong}"))?;
        match self.client {
            Some(client) => {
                // Who must have cosigned the remembered one is not known.
                let remembered = self.remembered.filter(|_| self.policy.is_none());
                let asked = genuine
                    .ask(client, key, remembered, proven.as_ref(), self.patience)
                    .await?;
                (found.under, found.findings) = asked;
            }
            None => {
                found.findings.extend(genuine.foreign());
                found.under.clone_from(&proven);
            }
        }
        let Some(policy) = self.policy else {
            return Ok(());
        };
        let checkpoints = [proven.as_ref(), found.under.as_ref()];
        let mut why =
            "not yet witnessed: the file holds no proof, whose checkpoint could be cosigned"
                .to_owned();
        for checkpoint in checkpoints.into_iter().flatten() {
            match quorum::cosigners(policy, key, checkpoint.note()) {
                Ok(by) => {
                    found.cosigned_by = Some(by);
                    return Ok(());
                }
                Err(lacking) => why = lacking,
            }
        }
        Err(why)
    }
}

/// Fetches a receipt with its proof; without, if there is none in time.
async fn download(client: &Client, id: &str, patience: Duration) -> Result<Unverified, String> {
    let deadline = Instant::now() + patience;
    let limit = usize::try_from(MAX_FILE).unwrap_or(usize::MAX);
    let plain = format!("{RECEIPTS}{id}");
    let with_proof = format!("{plain}?proof=1");
    loop {
        let late = Instant::now() >= deadline;
        let path = if late { &plain } else { &with_proof };
        match client.get(path, limit, Caches::Past).await {
            Ok(body) => {
                return Unverified::from_body(body.as_ref())
                    .ok_or_else(|| format!("{} answers with no receipt file", client.url(path)));
            }
            Err(NoAnswer::Status { status: 202, .. }) if !late => {
                tokio::time::sleep(POLL).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_a_file_an_address_or_an_id() {
        let id = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
        let log = |text| fetch::log_url(text).ok();
        let at = |log| Ok(Source::Log(id.into(), log));
        for (text, expected) in [
            (
                "receipt.json".into(),
                Ok(Source::File("receipt.json".into())),
            ),
            (id.to_owned(), at(None)),
            (
                format!("http://a.b/api/receipts/{id}"),
                at(log("http://a.b")),
            ),
            (
                format!("https://a.b/c/api/receipts/{id}?proof=1"),
                at(log("https://a.b/c/")),
            ),
        ] {
            assert_eq!(Source::parse(&text), expected, "{text}");
        }
        for bad in [
            "http://a.b",
            "http://a.b/api/receipts/7",
            "https://api/receipts/",
        ] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }
}
