//! A few threads behind a short queue.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Files that are worked on at the same time. Each needs about two blobs (16 MiB at most).
const THREADS: usize = 4;
/// Jobs that wait; each holds a node and its directory open.
const QUEUE: usize = 32;
/// The walk recurses once a directory level; the memory is only reserved.
const WALK_STACK: usize = 256 << 20;

type Job<'env> = Box<dyn FnOnce() + Send + 'env>;

/// Takes jobs while a walk goes on.
pub struct Pool<'env> {
    sender: SyncSender<Job<'env>>,
}

impl<'env> Pool<'env> {
    /// Queues a job, waiting while the queue is full.
    pub fn submit(&self, job: impl FnOnce() + Send + 'env) {
        // It fails only when all threads are gone, which is by a panic that `run` passes on.
        let _ = self.sender.send(Box::new(job));
    }
}

/// Runs `walk` on a thread of its own, and what it submits on the pool's; returns when all is done.
///
/// # Errors
/// If a thread cannot be started.
pub fn run<'env, T: Send>(walk: impl FnOnce(Pool<'env>) -> T + Send) -> std::io::Result<T> {
    let (sender, receiver) = sync_channel::<Job<'env>>(QUEUE);
    let receiver = &Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || work(receiver));
        }
        let walker = std::thread::Builder::new()
            .stack_size(WALK_STACK)
            .spawn_scoped(scope, move || walk(Pool { sender }))?;
        match walker.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn work(receiver: &Mutex<Receiver<Job<'_>>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
