//! Places for strangers: whoever comes last always gets one, and the one who has sat longest goes.
//!
//! A door that waits for a free place can be blocked by anybody who opens connections and says
//! nothing. Here such a flood only pushes itself out; an honest client is through in milliseconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// At most `size` seats.
pub struct Room {
    size: usize,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    seated: VecDeque<(u64, CancellationToken)>,
}

/// A place; given back when dropped.
pub struct Seat {
    room: Arc<Room>,
    number: u64,
    /// Cancelled when the place is needed for someone who came later.
    pub out: CancellationToken,
}

impl Room {
    /// A room with this many places.
    #[must_use]
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, guests: Mutex::default() })
    }

    /// Takes a place; if none is free the oldest guest is asked out.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Seat {
        let mut guests = self.lock();
        if guests.seated.len() >= self.size
            && let Some((_, oldest)) = guests.seated.pop_front()
        {
            oldest.cancel();
        }
        let (number, out) = (guests.next, CancellationToken::new());
        guests.next += 1;
        guests.seated.push_back((number, out.clone()));
        Seat { room: Arc::clone(self), number, out }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.lock().seated.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_a_free_place_is_used_first() {
        let room = Room::new(2);
        let (first, second) = (room.enter(), room.enter());
        assert!(!first.out.is_cancelled() && !second.out.is_cancelled());
        drop(first);
        let third = room.enter();
        assert!(!second.out.is_cancelled(), "there was a free place");
        let _fourth = room.enter();
        assert!(second.out.is_cancelled() && !third.out.is_cancelled());
    }
}
