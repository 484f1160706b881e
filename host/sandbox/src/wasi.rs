//! What a plugin finds when it reaches for the world outside: an empty environment, a clock that
//! stands still, the same random numbers each time, and two streams that end in its log.
//!
//! These few interfaces are our own rather than wasmtime-wasi's. Nothing here can block, so no call
//! of a plugin outlasts its CPU limit (a real `monotonic-clock` would let it sleep for days inside
//! of the host); no async runtime is needed, so a call works on any thread; and there is no code
//! for files and sockets that a mistake could expose.
//!
//! Handles carry no state: a stream is its own number, and every pollable is ready.

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmtime::component::Resource;
use wasmtime::{Result, bail};

use crate::bindings::wasi::wasi::io::error::{self, Error};
use crate::bindings::wasi::wasi::io::poll::{self, Pollable};
use crate::bindings::wasi::wasi::io::streams::{self, InputStream, OutputStream, StreamError};
use crate::bindings::wasi::wasi::{cli, clocks, random};
use crate::digest::Digest;
use crate::log::Stream;
use crate::state::State;

/// Bytes of a single write that a stream accepts, and of random bytes in one call.
const CHUNK_BYTES: u64 = 64 * 1024;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// The plugin called `exit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the plugin ended its own process with `exit`")]
pub(crate) struct Exited;

/// Time and randomness of one attempt.
pub(crate) struct World {
    as_of_us: i64,
    seed: [u8; 32],
    blocks: u64,
}

impl World {
    /// The same component at the same point in time sees the same world.
    pub(crate) fn new(digest: Digest, as_of_us: i64) -> Self {
        let seed = Sha256::new()
            .chain_update(digest.as_bytes())
            .chain_update(as_of_us.to_le_bytes())
            .finalize()
            .into();
        Self {
            as_of_us,
            seed,
            blocks: 0,
        }
    }

    /// Fills `bytes` by hashing the seed with a counter. Repeatable is what is wanted here, not
    /// secret.
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed)
                .chain_update(self.blocks.to_le_bytes())
                .finalize();
            self.blocks += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > CHUNK_BYTES {
            bail!("{len} random bytes asked for in one call, {CHUNK_BYTES} is the most");
        }
        let mut bytes = vec![0; usize::try_from(len)?];
        self.fill(&mut bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl random::random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.world.bytes(len)
    }

    fn get_random_u64(&mut self) -> Result<u64> {
        Ok(self.world.number())
    }
}

impl random::insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.world.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> Result<u64> {
        Ok(self.world.number())
    }
}

impl random::insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> Result<(u64, u64)> {
        Ok((self.world.number(), self.world.number()))
    }
}

impl clocks::wall_clock::Host for State {
    fn now(&mut self) -> Result<clocks::wall_clock::Datetime> {
        // The interface has no times before 1970; the contract's `as-of-us` has.
        let as_of_us = u64::try_from(self.world.as_of_us).unwrap_or(0);
        let nanoseconds = u32::try_from(as_of_us % 1_000_000 * 1_000)?;
        Ok(clocks::wall_clock::Datetime {
            seconds: as_of_us / 1_000_000,
            nanoseconds,
        })
    }

    fn resolution(&mut self) -> Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1_000,
        })
    }
}

impl clocks::monotonic_clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn resolution(&mut self) -> Result<u64> {
        Ok(1)
    }

    // A sleep ends at once: no time passes in here.
    fn subscribe_instant(&mut self, _when: u64) -> Result<Resource<Pollable>> {
        Ok(ready())
    }

    fn subscribe_duration(&mut self, _when: u64) -> Result<Resource<Pollable>> {
        Ok(ready())
    }
}

impl cli::environment::Host for State {
    fn get_environment(&mut self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for State {
    fn exit(&mut self, _status: Result<(), ()>) -> Result<()> {
        Err(wasmtime::Error::new(Exited))
    }
}

impl cli::stdin::Host for State {
    fn get_stdin(&mut self) -> Result<Resource<InputStream>> {
        Ok(Resource::new_own(0))
    }
}

impl cli::stdout::Host for State {
    fn get_stdout(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STDOUT))
    }
}

impl cli::stderr::Host for State {
    fn get_stderr(&mut self) -> Result<Resource<OutputStream>> {
        Ok(Resource::new_own(STDERR))
    }
}

impl cli::terminal_input::Host for State {}

impl cli::terminal_input::HostTerminalInput for State {
    fn drop(&mut self, _: Resource<cli::terminal_input::TerminalInput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for State {}

impl cli::terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, _: Resource<cli::terminal_output::TerminalOutput>) -> Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for State {
    fn get_terminal_stdin(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_stdin::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for State {
    fn get_terminal_stdout(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_stdout::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for State {
    fn get_terminal_stderr(
        &mut self,
    ) -> Result<Option<Resource<cli::terminal_stderr::TerminalOutput>>> {
        Ok(None)
    }
}

impl error::Host for State {}

impl error::HostError for State {
    fn to_debug_string(&mut self, _: Resource<Error>) -> Result<String> {
        Ok(String::new())
    }

    fn drop(&mut self, _: Resource<Error>) -> Result<()> {
        Ok(())
    }
}

impl poll::Host for State {
    fn poll(&mut self, pollables: Vec<Resource<Pollable>>) -> Result<Vec<u32>> {
        if pollables.is_empty() {
            bail!("the plugin polled an empty list");
        }
        Ok((0..u32::try_from(pollables.len())?).collect())
    }
}

impl poll::HostPollable for State {
    fn ready(&mut self, _: Resource<Pollable>) -> Result<bool> {
        Ok(true)
    }

    fn block(&mut self, _: Resource<Pollable>) -> Result<()> {
        Ok(())
    }

    fn drop(&mut self, _: Resource<Pollable>) -> Result<()> {
        Ok(())
    }
}

fn ready() -> Resource<Pollable> {
    Resource::new_own(0)
}

/// What a stream operation gives to the plugin.
type Io<T> = Result<Result<T, StreamError>>;

impl streams::Host for State {}

// Standard input has ended before it began.
impl streams::HostInputStream for State {
    fn read(&mut self, _: Resource<InputStream>, _len: u64) -> Io<Vec<u8>> {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_read(&mut self, _: Resource<InputStream>, _len: u64) -> Io<Vec<u8>> {
        Ok(Err(StreamError::Closed))
    }

    fn skip(&mut self, _: Resource<InputStream>, _len: u64) -> Io<u64> {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_skip(&mut self, _: Resource<InputStream>, _len: u64) -> Io<u64> {
        Ok(Err(StreamError::Closed))
    }

    fn subscribe(&mut self, _: Resource<InputStream>) -> Result<Resource<Pollable>> {
        Ok(ready())
    }

    fn drop(&mut self, _: Resource<InputStream>) -> Result<()> {
        Ok(())
    }
}

impl streams::HostOutputStream for State {
    fn check_write(&mut self, _: Resource<OutputStream>) -> Io<u64> {
        Ok(Ok(CHUNK_BYTES))
    }

    fn write(&mut self, to: Resource<OutputStream>, contents: Vec<u8>) -> Io<()> {
        let stream = if to.rep() == STDOUT {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        self.log.write(stream, &contents);
        self.meter
            .hold(self.log.bytes())
            .map_err(wasmtime::Error::new)?;
        Ok(Ok(()))
    }

    fn blocking_write_and_flush(
        &mut self,
        to: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> Io<()> {
        self.write(to, contents)
    }

    fn flush(&mut self, _: Resource<OutputStream>) -> Io<()> {
        Ok(Ok(()))
    }

    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> Io<()> {
        Ok(Ok(()))
    }

    fn subscribe(&mut self, _: Resource<OutputStream>) -> Result<Resource<Pollable>> {
        Ok(ready())
    }

    // Zeroes would only be escapes in the log.
    fn write_zeroes(&mut self, _: Resource<OutputStream>, _len: u64) -> Io<()> {
        Ok(Ok(()))
    }

    fn blocking_write_zeroes_and_flush(&mut self, _: Resource<OutputStream>, _len: u64) -> Io<()> {
        Ok(Ok(()))
    }

    fn splice(
        &mut self,
        _: Resource<OutputStream>,
        _from: Resource<InputStream>,
        _len: u64,
    ) -> Io<u64> {
        Ok(Err(StreamError::Closed))
    }

    fn blocking_splice(
        &mut self,
        _: Resource<OutputStream>,
        _from: Resource<InputStream>,
        _len: u64,
    ) -> Io<u64> {
        Ok(Err(StreamError::Closed))
    }

    fn drop(&mut self, _: Resource<OutputStream>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_follows_component_and_time_alone() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let first = |digest, as_of_us| World::new(digest, as_of_us).bytes(100).expect("in bounds");

        assert_eq!(first(one, 7), first(one, 7));
        assert_ne!(first(one, 7), first(one, 8));
        assert_ne!(first(one, 7), first(other, 7));
    }

    #[test]
    fn random_bytes_do_not_repeat() {
        let mut world = World::new(Digest::of(b""), 0);
        let bytes = world.bytes(64).expect("in bounds");

        assert_ne!(bytes[..32], bytes[32..]);
        assert_ne!(world.number(), world.number());
    }

    #[test]
    fn random_bytes_are_bounded() {
        assert!(World::new(Digest::of(b""), 0).bytes(u64::MAX).is_err());
    }
}
