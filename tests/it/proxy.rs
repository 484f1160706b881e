//! A proxy between the program and the server that knows the protocol well enough to stop between any two steps of it.
//!
//! A **point** is all that one side sends before it waits for the other: the messages of the program up to a Query or a
//! Sync, or the answer of the server up to its ReadyForQuery. Points are numbered over all connections, in the order in
//! which they arrive here, and one is decided on at a time: what is sent, cut off or held back at point k is the same in
//! each run, as far as the program works through its steps in the same order.
//!
//! Plain threads and blocking sockets: a test may block its runtime.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tempfile::TempDir;

/// Who is about to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Program,
    Server,
}

/// A step of the protocol that is about to be passed on.
#[derive(Debug, Clone)]
pub struct Point {
    /// From 0.
    pub number: usize,
    pub sender: Sender,
    /// The statement that is sent or answered, or what else it is: `login`, `cancel`.
    pub what: String,
    /// The server's process for the connection, once it is known.
    pub backend: Option<i32>,
}

/// What becomes of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It is thrown away and its connection closed, on both sides.
    Cut,
    /// As [`Cut`](Self::Cut), and so with everything that follows on every connection.
    CutAll,
    /// It is held back, as is everything that follows, until the proxy goes: a server that hangs.
    Hold,
}

type Decide = Box<dyn FnMut(&Point) -> Verdict + Send>;

/// The proxy: a directory with a socket, as a server has one.
pub struct Proxy {
    directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    server: PathBuf,
    state: Mutex<State>,
    released: Condvar,
    /// The proxy is gone: nothing is taken any more.
    over: AtomicBool,
}

struct State {
    points: usize,
    decide: Decide,
    cut: bool,
    held: bool,
}

/// What the two directions of a connection know of each other.
#[derive(Default)]
struct Connection {
    backend: AtomicI32,
    /// What was sent and is not answered yet.
    asked: Mutex<VecDeque<String>>,
}

impl Proxy {
    /// Stands in front of the server whose socket is in `directory`; passes everything on.
    pub fn new(directory: &Path) -> Self {
        let shared = Arc::new(Shared {
            server: directory.join(".s.PGSQL.5432"),
            state: Mutex::new(State {
                points: 0,
                decide: Box::new(|_| Verdict::Pass),
                cut: false,
                held: false,
            }),
            released: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let directory = TempDir::new().expect("a folder");
        let listener =
            UnixListener::bind(directory.path().join(".s.PGSQL.5432")).expect("a socket");
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for program in listener.incoming() {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                // A server that is down: the program sees its connection closed.
                if let Ok(program) = program {
                    accepting.clone().connect(&program);
                }
            }
        });
        Self { directory, shared }
    }

    /// Returns where programs find the socket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Begins to count at 0, and asks `decide` from here on.
    pub fn begin(&self, decide: impl FnMut(&Point) -> Verdict + Send + 'static) {
        let mut state = self.shared.state();
        (state.points, state.cut, state.held) = (0, false, false);
        state.decide = Box::new(decide);
        drop(state);
        self.shared.released.notify_all();
    }

    /// Passes everything on from here on.
    pub fn end(&self) {
        self.begin(|_| Verdict::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut state = self.shared.state();
        (state.cut, state.held) = (true, false);
        drop(state);
        self.shared.released.notify_all();
        let _ = UnixStream::connect(self.directory.path().join(".s.PGSQL.5432"));
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: Arc<Self>, program: &UnixStream) {
        let Ok(server) = UnixStream::connect(&self.server) else {
            return;
        };
        let connection = Arc::new(Connection::default());
        for sender in [Sender::Program, Sender::Server] {
            let [mut from, mut to] =
                [program, &server].map(|stream| stream.try_clone().expect("a handle"));
            if sender == Sender::Server {
                std::mem::swap(&mut from, &mut to);
            }
            let (shared, connection) = (self.clone(), connection.clone());
            std::thread::spawn(move || {
                let passed = match sender {
                    Sender::Program => shared.pass_program(&mut from, &mut to, &connection),
                    Sender::Server => shared.pass_server(&mut from, &mut to, &connection),
                };
                // Whoever closes its end closes the other one too.
                drop(passed);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn pass_program(
        &self,
        from: &mut UnixStream,
        to: &mut UnixStream,
        connection: &Connection,
    ) -> Result<()> {
        let first = read_first(from)?;
        let what = match first.get(4..8) {
            Some([0x04, 0xd2, 0x16, 0x2e]) => "cancel",
            _ => "login",
        };
        self.send(Sender::Program, what, &first, to, connection)?;
        let (mut bytes, mut what) = (Vec::new(), String::new());
        loop {
            let kind = read_message(from, &mut bytes)?;
            match kind.letter {
                b'P' => what = text(&bytes[kind.body..], 1),
                b'Q' => what = text(&bytes[kind.body..], 0),
                _ => {}
            }
            // Query, Sync, Flush, Terminate, the end of a COPY, a password.
            if matches!(kind.letter, b'Q' | b'S' | b'H' | b'X' | b'c' | b'f' | b'p') {
                let what = match kind.letter {
                    b'X' => "goodbye".to_owned(),
                    _ if what.is_empty() => "bind".to_owned(),
                    _ => std::mem::take(&mut what),
                };
                self.send(Sender::Program, &what, &bytes, to, connection)?;
                bytes.clear();
            }
        }
    }

    fn pass_server(
        &self,
        from: &mut UnixStream,
        to: &mut UnixStream,
        connection: &Connection,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        loop {
            let kind = match read_message(from, &mut bytes) {
                Ok(kind) => kind,
                Err(error) => {
                    // The last words of a server that closes.
                    to.write_all(&bytes)?;
                    return Err(error);
                }
            };
            if kind.letter == b'K'
                && let Some(&[a, b, c, d]) = bytes.get(kind.body..kind.body + 4)
            {
                connection
                    .backend
                    .store(i32::from_be_bytes([a, b, c, d]), Ordering::Relaxed);
            }
            // ReadyForQuery, a request to log in, and the begin of a COPY.
            let asks_login =
                kind.letter == b'R' && bytes.get(kind.body..kind.body + 4) != Some(&[0; 4]);
            if matches!(kind.letter, b'Z' | b'G' | b'W') || asks_login {
                let mut asked = connection
                    .asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let what = asked.pop_front().unwrap_or_default();
                drop(asked);
                self.send(Sender::Server, &what, &bytes, to, connection)?;
                bytes.clear();
            }
        }
    }

    /// Passes a point on, if it is to be.
    fn send(
        &self,
        sender: Sender,
        what: &str,
        bytes: &[u8],
        to: &mut UnixStream,
        connection: &Connection,
    ) -> Result<()> {
        let mut state = self.state();
        let backend = connection.backend.load(Ordering::Relaxed);
        let point = Point {
            number: state.points,
            sender,
            what: what.to_owned(),
            backend: (backend != 0).then_some(backend),
        };
        if !state.cut && !state.held {
            state.points += 1;
            match (state.decide)(&point) {
                Verdict::Pass => {}
                Verdict::Cut => return Err(ErrorKind::ConnectionAborted.into()),
                Verdict::CutAll => state.cut = true,
                Verdict::Hold => state.held = true,
            }
        }
        let state = self
            .released
            .wait_while(state, |state| state.held)
            .unwrap_or_else(PoisonError::into_inner);
        if state.cut {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        drop(state);
        if sender == Sender::Program {
            let mut asked = connection
                .asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            asked.push_back(what.to_owned());
        }
        to.write_all(bytes)
    }
}

/// A message that was read: its kind, and where its contents begin.
struct Kind {
    letter: u8,
    body: usize,
}

/// Reads the first message, which has no letter.
fn read_first(from: &mut UnixStream) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    from.read_exact(&mut bytes)?;
    let length = length(&bytes)?;
    bytes.resize(length, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

/// Reads a message to the end of `bytes`.
fn read_message(from: &mut UnixStream, bytes: &mut Vec<u8>) -> Result<Kind> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let body = bytes.len() + 5;
    let end = bytes.len() + 1 + length(&head[1..])?;
    bytes.extend_from_slice(&head);
    bytes.resize(end, 0);
    from.read_exact(&mut bytes[body..])?;
    Ok(Kind {
        letter: head[0],
        body,
    })
}

fn length(bytes: &[u8]) -> Result<usize> {
    let length = bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    match length {
        Some(length @ 4..0x4000_0000) => Ok(length as usize),
        _ => Err(Error::from(ErrorKind::InvalidData)),
    }
}

/// Returns the text number `skip` of those that end in a zero byte, on one line.
fn text(body: &[u8], skip: usize) -> String {
    let text = body.split(|&byte| byte == 0).nth(skip).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
