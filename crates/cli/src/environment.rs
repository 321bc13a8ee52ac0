//! What the libraries below are told by the environment: how long threads spin for each other, and when freed memory goes back.
//!
//! OpenMP's threads meet hundreds of times in a pass. By default each spins for about 3 ms before it sleeps; on cores that
//! something else uses too, it spins in vain while the thread that it waits for is not running. And glibc keeps what was freed
//! for the thread that had it: a crowd of large requests would leave hundreds of MiB behind.

/// Variables, what they are set to, and the variable that stands for the same decision. A thread looks 1,000 times, about 10 µs,
/// before it sleeps: enough where the cores are free, and little lost where they are not. Two places where threads allocate, and
/// large pieces of memory that go back to the system when they are freed, left 7 MiB at most after 64 requests of 4 MiB; two
/// places alone left up to 125 MiB, and glibc as it comes 540 MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: [(&str, &str, &str); 4] = [
    ("GOMP_SPINCOUNT", "1000", "OMP_WAIT_POLICY"),
    ("MALLOC_ARENA_MAX", "2", "GLIBC_TUNABLES"),
    ("MALLOC_TRIM_THRESHOLD_", "131072", "GLIBC_TUNABLES"),
    ("MALLOC_MMAP_THRESHOLD_", "131072", "GLIBC_TUNABLES"),
];

/// Sets what the user's environment leaves open. It is read when the libraries are loaded, so that the program starts itself
/// again, as the same process. Where that fails it goes on as it is.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn complete() {
    use std::os::unix::process::CommandExt;

    let is_set = |name: &str| std::env::var_os(name).is_some();
    let open = SETTINGS.into_iter().filter(|(name, _, same)| !is_set(name) && !is_set(same));
    let open: Vec<(&str, &str)> = open.map(|(name, value, _)| (name, value)).collect();
    if open.is_empty() {
        return;
    }
    let mut args = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), args.next()) else { return };
    let _refused = std::process::Command::new(program).arg0(name).args(args).envs(open).exec();
}

/// These libraries are found on Linux only.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn complete() {}
