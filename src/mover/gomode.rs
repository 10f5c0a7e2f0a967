//! Modes as restic stores them: Go's `os.FileMode`, whose bits above 0o777 are not Unix's.

use super::fsx::Kind;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SUID: u32 = 1 << 23;
const SGID: u32 = 1 << 22;
const CHAR: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

/// `mode` is `st_mode & 0o7777`.
#[must_use]
pub fn to_go(kind: Kind, mode: u32) -> u32 {
    let bits = match kind {
        Kind::File => 0,
        Kind::Dir => DIR,
        Kind::Symlink => SYMLINK,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
        Kind::Block => DEVICE,
        Kind::Char => DEVICE | CHAR,
    };
    let special = [(0o4000, SUID), (0o2000, SGID), (0o1000, STICKY)];
    special
        .into_iter()
        .filter(|(unix, _)| mode & unix != 0)
        .fold(bits | (mode & 0o777), |all, (_, go)| all | go)
}

/// The inverse, without the kind.
#[must_use]
pub fn from_go(mode: u32) -> u32 {
    let special = [(0o4000, SUID), (0o2000, SGID), (0o1000, STICKY)];
    special.into_iter().filter(|(_, go)| mode & go != 0).fold(mode & 0o777, |all, (unix, _)| all | unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_survives() {
        for mode in 0..0o10000 {
            assert_eq!(from_go(to_go(Kind::Char, mode)), mode);
        }
    }
}
