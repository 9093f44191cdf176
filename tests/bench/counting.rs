//! pgweir itself with an allocator that counts, for `make bench`: when it ends it says how often the workers' threads asked for
//! memory. What a query of a session at work costs is the difference between a longer and a shorter run.

// There is no other way to stand in for the allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Parser;
use pgweir::cli::Cli;

struct Counting(AtomicU64);

#[global_allocator]
static COUNTING: Counting = Counting(AtomicU64::new(0));

/// By what the kernel calls the thread: asking for its name in Rust may ask for memory.
fn is_worker() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, the length of `name`.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"worker-")
}

impl Counting {
    fn count(&self) {
        self.0.fetch_add(u64::from(is_worker()), Relaxed);
    }
}

// SAFETY: everything is the system's allocator's; counting touches no memory of its own making.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn main() -> ExitCode {
    let code = Cli::parse().run().unwrap_or(ExitCode::FAILURE);
    eprintln!("asked for memory: {}", COUNTING.0.load(Relaxed));
    code
}
