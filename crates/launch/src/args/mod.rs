//! Flags that several commands have: every flag, its environment variable, and what it means.

mod device;
mod listen;
mod numbers;
mod serve;

pub use device::{DeviceArgs, PairArgs};
pub use listen::ListenArgs;
pub use numbers::{not_negative, rate, share};
pub use serve::{SchedulingArgs, ServeArgs};
