//! Which arbiter is in force at home. Pure.
//!
//! `Embassy` fences home when its permit lapses, `Home` never does. So the change to the weaker
//! fence waits until the embassy has been told that it may no longer take the writ by itself, or a
//! home that is cut off would be let go just when the embassy takes over.

use super::observation::{Observation, Reach, Right};
use crate::api::embassy::Arbiter;

/// The arbiter that fence and evidence go by.
#[must_use]
pub fn in_force(seen: &Observation) -> Arbiter {
    let wanted = seen.object.spec.embassy.arbiter;
    match (seen.status().arbiter, wanted) {
        (Some(Arbiter::Embassy), Arbiter::Home) if !told(seen) => Arbiter::Embassy,
        _ => wanted,
    }
}

/// The spec asks for `Home` and it does not hold yet.
#[must_use]
pub fn waits(seen: &Observation) -> bool {
    in_force(seen) != seen.object.spec.embassy.arbiter
}

/// The mirror says `Home`, and home holds a permit: no claim that was begun before can still come,
/// because the ledger moved less than R ago.
fn told(seen: &Observation) -> bool {
    let mirror = seen.embassy.mirror.as_ref().filter(|_| seen.embassy.reach == Reach::Reached);
    let home = mirror.and_then(|m| m.spec.as_ref()).is_some_and(|s| s.embassy.arbiter == Arbiter::Home);
    let even = seen.writ.read && seen.writ.epoch.is_some() && !seen.writ.odd();
    home && even && seen.writ.right == Right::Granted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::observation;
    use super::*;

    #[test]
    fn a_weaker_fence_waits_until_the_embassy_knows() {
        type Edit = fn(&mut Observation);
        fn mirror(seen: &mut Observation, arbiter: Arbiter) {
            let mut spec = seen.object.spec.clone();
            spec.embassy.arbiter = arbiter;
            seen.embassy.mirror.as_mut().unwrap().spec = Some(spec);
        }
        let table: [(Edit, Arbiter); 8] = [
            (|_| {}, Arbiter::Home),
            (|s| mirror(s, Arbiter::Embassy), Arbiter::Embassy),
            (|s| s.embassy.reach = Reach::Unreachable("x".into()), Arbiter::Embassy),
            (|s| s.embassy = Default::default(), Arbiter::Embassy),
            (|s| s.writ = Default::default(), Arbiter::Embassy),
            (|s| s.writ.epoch = Some(1), Arbiter::Embassy),
            (|s| s.writ.right = Right::Denied("lapsed".into()), Arbiter::Embassy),
            (|s| s.object.status.as_mut().unwrap().arbiter = None, Arbiter::Home),
        ];
        for (at, (edit, expected)) in table.into_iter().enumerate() {
            let mut seen = observation();
            seen.object.status.as_mut().unwrap().arbiter = Some(Arbiter::Embassy);
            mirror(&mut seen, Arbiter::Home);
            edit(&mut seen);
            assert_eq!(in_force(&seen), expected, "{at}");
            // The other way at once, whatever is known; and the embassy hears of it only afterwards.
            seen.object.spec.embassy.arbiter = Arbiter::Embassy;
            seen.object.status.as_mut().unwrap().arbiter = Some(Arbiter::Home);
            assert_eq!(in_force(&seen), Arbiter::Embassy);
            assert!(!seen.may_mirror());
        }
    }
}
