//! What a request names. Everything that reaches the disk passes through these types: no path is
//! ever built from text that was not checked here.

use crate::api::dispatch::parse_dispatch_name;
use std::fmt;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A repository's name: the DataEmbassy's, a DNS-1123 label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoName(String);

impl RepoName {
    /// `None` for anything but 1 to 63 of `[a-z0-9-]` with no dash at either end.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let label = !text.is_empty()
            && text.len() <= 63
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        label.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of an object: the SHA-256 of its content in exactly 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectId(String);

impl ObjectId {
    /// `None` for anything else, upper case included: two spellings of one name would be two files.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 64 && text.bytes().all(|b| HEX.contains(&b))).then(|| Self(text.to_owned()))
    }

    /// The 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first two digits: the folder of `data/` that holds it.
    #[must_use]
    pub fn shard(&self) -> &str {
        self.0.get(..2).unwrap_or_default()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The object types of the restic layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packs.
    Data,
    /// Key files (the repository's master key, wrapped).
    Keys,
    /// Locks: the only type that can be deleted.
    Locks,
    /// Snapshots.
    Snapshots,
    /// Indexes.
    Index,
}

impl Kind {
    /// All of them, as folders of a repository.
    pub const ALL: [Self; 5] = [Self::Data, Self::Keys, Self::Locks, Self::Snapshots, Self::Index];

    /// Name in addresses and on disk.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Keys => "keys",
            Self::Locks => "locks",
            Self::Snapshots => "snapshots",
            Self::Index => "index",
        }
    }

    /// Longest accepted content in bytes.
    #[must_use]
    pub fn max_bytes(self) -> u64 {
        match self {
            Self::Data => 512 << 20,
            Self::Index => 64 << 20,
            Self::Snapshots => 8 << 20,
            Self::Keys | Self::Locks => 64 << 10,
        }
    }

    /// Most objects of this type in one repository, where the quota alone would be no bound: every
    /// client reads all keys and all locks, so a flood of them would lock out the readers.
    #[must_use]
    pub fn max_count(self) -> Option<usize> {
        match self {
            Self::Keys => Some(64),
            Self::Locks => Some(1024),
            Self::Data | Self::Snapshots | Self::Index => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The repository itself: `/<repo>/`.
    Root,
    /// `/<repo>/config`.
    Config,
    /// `/<repo>/<kind>/`.
    List(Kind),
    /// `/<repo>/<kind>/<id>`.
    Object(Kind, ObjectId),
    /// `/<repo>/dispatches/`.
    Dispatches,
    /// `/<repo>/dispatches/<20 digits>`.
    Dispatch(u64),
    /// `/<repo>/status`.
    Status,
}

impl What {
    /// A word for metrics and logs, from a closed set.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Root => "repository",
            Self::Config => "config",
            Self::List(kind) | Self::Object(kind, _) => kind.as_str(),
            Self::Dispatches | Self::Dispatch(_) => "dispatches",
            Self::Status => "status",
        }
    }
}

/// A parsed request path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which repository.
    pub repo: RepoName,
    /// What of it.
    pub what: What,
}

impl Target {
    /// Parses the path of a request. There is no decoding of `%`: no valid name needs it, and two
    /// spellings of one path are how traversal bugs begin.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (repo, rest) = path.strip_prefix('/')?.split_once('/')?;
        Some(Self { repo: RepoName::parse(repo)?, what: parse_what(rest)? })
    }
}

fn parse_what(rest: &str) -> Option<What> {
    match rest {
        "" => return Some(What::Root),
        "config" => return Some(What::Config),
        "status" => return Some(What::Status),
        "dispatches/" => return Some(What::Dispatches),
        _ => {}
    }
    let (folder, name) = rest.split_once('/')?;
    if folder == "dispatches" {
        return parse_dispatch_name(name).map(What::Dispatch);
    }
    let kind = Kind::parse(folder)?;
    if name.is_empty() {
        return Some(What::List(kind));
    }
    ObjectId::parse(name).map(|id| What::Object(kind, id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_plain_names_parse() {
        let id = "a".repeat(64);
        let ok = Target::parse(&format!("/register/data/{id}")).unwrap();
        assert_eq!(ok.what, What::Object(Kind::Data, ObjectId::parse(&id).unwrap()));
        assert_eq!(Target::parse("/r/").unwrap().what, What::Root);
        assert_eq!(Target::parse("/r/keys/").unwrap().what, What::List(Kind::Keys));
        assert_eq!(Target::parse("/r/dispatches/00000000000000000007").unwrap().what, What::Dispatch(7));
        let long = "r".repeat(64);
        for bad in [
            "",
            "/",
            "//",
            "/r",
            "/../r/config",
            "/r/../s/config",
            "/R/config",
            "/-r/config",
            "/r-/config",
            "/r.s/config",
            "/%72/config",
            "/r/Config",
            "/r/config/",
            "/r/data",
            "/r/data/ab",
            "/r/data/../config",
            "/r/other/",
            "/r/dispatches/7",
            "/r/dispatches/0000000000000000000x",
            "/r/dispatches/99999999999999999999",
            "/.tmp/config",
            &format!("/{long}/config"),
            &format!("/r/data/{}", id.to_uppercase()),
            &format!("/r/data/{id}/"),
            &format!("/r/data/{id}a"),
            &format!("/r/data/%61{}", "a".repeat(61)),
        ] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }
}
