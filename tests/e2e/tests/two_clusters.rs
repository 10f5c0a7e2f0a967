//! Tests on two real clusters that share them: each test has namespaces of its own. Those that
//! touch no network run side by side first; then come, one by one, those that cut, kill and reboot.
//!
//! `make test` runs them; by hand: `cargo test --release -p e2e --test two_clusters -- --run [NAME]`
//! after `make programs faulty`. Without `--run` they are shown as ignored: they need root.

#[path = "two_clusters/deletion.rs"]
mod deletion;
#[path = "two_clusters/disk.rs"]
mod disk;
#[path = "two_clusters/faults.rs"]
mod faults;
#[path = "two_clusters/fence.rs"]
mod fence;
#[path = "two_clusters/given.rs"]
mod given;
#[path = "two_clusters/human.rs"]
mod human;
#[path = "two_clusters/kills.rs"]
mod kills;
#[path = "two_clusters/lost.rs"]
mod lost;
#[path = "two_clusters/rights.rs"]
mod rights;
#[path = "two_clusters/runner.rs"]
mod runner;
#[path = "two_clusters/seeding.rs"]
mod seeding;

use runner::{Lane, Test};

/// Every test, in the order in which they run within a lane.
const TESTS: &[Test] = &[
    Test { name: "seeding::first_copy_and_incremental_sync", lane: Lane::SideBySide, run: seeding::copies },
    Test { name: "human::arbiter_home_waits_for_a_human", lane: Lane::SideBySide, run: human::arbiter_home },
    Test { name: "human::overlap_is_refused", lane: Lane::SideBySide, run: human::overlap },
    Test { name: "rights::of_home_at_the_embassy", lane: Lane::SideBySide, run: rights::of_home },
    Test { name: "deletion::of_the_object", lane: Lane::SideBySide, run: deletion::of_the_object },
    Test { name: "deletion::of_the_namespace", lane: Lane::SideBySide, run: deletion::of_the_namespace },
    Test { name: "faults::wrong_input_is_said_and_mended", lane: Lane::SideBySide, run: faults::wrong_input },
    Test { name: "faults::vault_full", lane: Lane::SideBySide, run: faults::vault_full },
    Test { name: "faults::vault_down", lane: Lane::SideBySide, run: faults::vault_down },
    Test { name: "fence::short_cut_changes_nothing", lane: Lane::OneByOne, run: fence::short_cut },
    Test { name: "fence::long_cut_fences_home_first", lane: Lane::OneByOne, run: fence::long_cut },
    Test { name: "kills::operator_dies_at_every_step", lane: Lane::OneByOne, run: kills::at_every_step },
    Test { name: "lost::home_killed_then_rebooted", lane: Lane::OneByOne, run: lost::killed_and_rebooted },
    Test {
        name: "deletion::uninstall_leaves_nothing_hanging",
        lane: Lane::OneByOne,
        run: deletion::uninstall,
    },
    Test { name: "disk::host_reads_nothing", lane: Lane::OneByOne, run: disk::host_reads_nothing },
];

fn main() -> std::process::ExitCode {
    runner::main(TESTS)
}
