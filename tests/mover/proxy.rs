//! A bad line: a TCP proxy that cuts connections.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What goes wrong.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Of each two connections one is cut after so many bytes from the server.
    Cut(usize),
    /// The first answer to a request that begins with these words never arrives.
    LoseAnswer(&'static str),
}

/// Listens until the process ends; tests are short.
pub struct Proxy {
    pub address: SocketAddr,
    /// How often it did what it is for.
    pub struck: Arc<AtomicUsize>,
}

impl Proxy {
    pub fn start(upstream: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let struck = Arc::new(AtomicUsize::new(0));
        let counter = struck.clone();
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let counter = counter.clone();
                std::thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(upstream) {
                        carry(client, server, fault, number, &counter);
                    }
                });
            }
        });
        Self { address, struck }
    }
}

fn carry(client: TcpStream, server: TcpStream, fault: Fault, number: usize, struck: &Arc<AtomicUsize>) {
    let lose = Arc::new(AtomicBool::new(false));
    let (mut from, mut to, lose_it) =
        (client.try_clone().unwrap(), server.try_clone().unwrap(), lose.clone());
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if let Fault::LoseAnswer(words) = fault
                && buffer[..count].starts_with(words.as_bytes())
            {
                lose_it.store(true, Ordering::SeqCst);
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        passed += count;
        let strike = match fault {
            Fault::Cut(after) => number.is_multiple_of(2) && passed > after,
            Fault::LoseAnswer(_) => lose.load(Ordering::SeqCst) && struck.load(Ordering::SeqCst) == 0,
        };
        if strike {
            struck.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
