use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use selvedge_crds::EdgeNode;
use serde::Deserialize;

use super::observe::{Observed, SecretMark, Waiting};
use super::plan::{Shown, plan};
use super::sessions::Presence;
use super::status::status;
use crate::golden;
use crate::raw::Raw;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    case: String,
    node: Raw<EdgeNode>,
    #[serde(default = "hubs")]
    hubs: String,
    /// (public key, hubs) of the join Secret.
    secret: Option<(String, String)>,
    /// Serial of the session's certificate.
    session: Option<String>,
    /// Uid in the certificate of a machine that waits outside.
    waiting: Option<String>,
    /// No session since; the default is long ago.
    absent_since: Option<Timestamp>,
}

fn hubs() -> String {
    "https://hub.example:8443".into()
}

/// The cases are at noon of 2026-01-01; the grace period is 40 s.
#[test]
fn what_is_done_about_an_edge_node() {
    let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    let mut text = String::new();
    for case in golden::cases::<Case>("edgenode") {
        let presence = match case.session {
            Some(serial) => Presence::Connected { replica: "hub-a".into(), serial },
            None => Presence::Absent { since: case.absent_since.unwrap_or(now - Duration::from_secs(3600)) },
        };
        let secret = case.secret.map(|(public_key, hubs)| SecretMark { public_key, hubs });
        let waiting = case.waiting.map(|uid| Waiting { uid, look: Duration::from_secs(300) });
        let observed = Observed::new(&case.node, secret, presence, waiting, &case.hubs, now);
        let plan = plan(&observed, Duration::from_secs(40));
        writeln!(text, "{}", case.case).unwrap();
        if let Some(step) = &plan.step {
            writeln!(text, "  → {step}").unwrap();
        }
        if let Shown::Unsure = plan.shown {
            writeln!(text, "  sessions: unsure, nothing is changed").unwrap();
        }
        if let Some(again) = plan.again {
            writeln!(text, "  again in {again:?}").unwrap();
        }
        text += &golden::rendered(&status(&observed, &plan, Some(1), "selvedge-join"));
        text.push('\n');
    }
    golden::check("edgenode", &text);
}
