//! How long the threads of a pass spin for each other.
//!
//! OpenMP's threads meet hundreds of times in a pass. By default each spins for about 3 ms before it sleeps; on cores that
//! something else uses too, it spins in vain while the thread that it waits for is not running.

/// How often a thread looks before it sleeps, about 10 µs: enough where the cores are free, and little lost where they are not.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SPINS: &str = "1000";

/// Makes threads spin briefly, unless the environment says how long they are to. libgomp reads it when it is loaded, so that
/// the program starts itself again, as the same process. Where that fails it goes on as it is.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn shorten() {
    use std::os::unix::process::CommandExt;

    const SPIN_COUNT: &str = "GOMP_SPINCOUNT";
    if [SPIN_COUNT, "OMP_WAIT_POLICY"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut args = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), args.next()) else { return };
    let _refused = std::process::Command::new(program).arg0(name).args(args).env(SPIN_COUNT, SPINS).exec();
}

/// Only libgomp can be told how long to spin.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn shorten() {}
