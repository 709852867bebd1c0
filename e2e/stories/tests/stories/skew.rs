//! Skew: the stories with one part of the release before this one, as every upgrade has it for a while.
//!
//! Comes in: `SELVEDGE_SKEW`, and the release that the stage was set for. Goes out: the world that stories act on,
//! and which of them need what that release does not have yet.

use selvedge_cluster::Release;
use selvedge_stories::World;

/// Which part is of the previous release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// The agents: the cluster was upgraded first, as it should be.
    Agent,
    /// The hub: it follows by stages, or was rolled back.
    Hub,
    /// All of it at first, and nothing in the end.
    Upgrade,
}

/// What a story needs of a part only since a release. A story that comes with a feature gets a line here, and
/// loses it two releases later.
struct Since {
    story: &'static str,
    part: Skew,
    version: [u32; 3],
    what: &'static str,
}

const SECRETS: Since = Since {
    story: "secret::arrives_follows_and_is_written_down_nowhere",
    part: Skew::Agent,
    version: [0, 2, 0],
    what: "Secrets as references",
};

const RENEWAL: Since = Since {
    story: "renewal::a_certificate_is_renewed_also_late_and_an_old_one_is_refused",
    part: Skew::Agent,
    version: [0, 2, 0],
    what: "renewal of certificates",
};

const SINCE: [Since; 4] =
    [SECRETS, Since { part: Skew::Hub, ..SECRETS }, RENEWAL, Since { part: Skew::Hub, ..RENEWAL }];

impl Skew {
    /// What `SELVEDGE_SKEW` asks for.
    pub fn asked() -> Result<Option<Self>, String> {
        match std::env::var("SELVEDGE_SKEW").as_deref() {
            Err(_) | Ok("") => Ok(None),
            Ok("agent") => Ok(Some(Self::Agent)),
            Ok("hub") => Ok(Some(Self::Hub)),
            Ok("upgrade") => Ok(Some(Self::Upgrade)),
            Ok(other) => Err(format!("SELVEDGE_SKEW={other}: there are agent, hub and upgrade")),
        }
    }

    /// The world with this part of `release`.
    pub fn cast(self, world: &World, release: &Release) -> World {
        match self {
            Self::Agent => world.with_agent(release),
            Self::Hub => world.with_hub(release),
            Self::Upgrade => world.clone(),
        }
    }

    /// Why a story cannot be told with this part of that version, when it cannot.
    pub fn lacks(self, story: &str, version: [u32; 3]) -> Option<String> {
        let missing = |since: &&Since| (since.story, since.part) == (story, self) && version < since.version;
        let since = SINCE.iter().find(missing)?;
        let [old, new] = [version, since.version].map(|version| version.map(|n| n.to_string()).join("."));
        Some(format!("it needs {} of the {self:?}, there since {new}; this one is {old}", since.what))
    }
}
