//! What the engine was built for, and what it finds on this machine.

use super::{ffi, memory};

/// What llama.cpp can use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// The instruction sets that its CPU code was compiled for, as it names them: `AVX2`, `DOTPROD`.
    pub cpu_features: Vec<String>,
    /// The backends that were compiled in, such as `CPU` and `CUDA`.
    pub backends: Vec<String>,
    /// The GPUs that it finds.
    pub gpus: Vec<Gpu>,
    /// How many bytes of memory programs may still take, where the operating system tells.
    pub available_memory: Option<u64>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// What llama.cpp calls it and what it is, for people.
    pub name: String,
    /// How many bytes of its memory are free.
    pub free: u64,
    /// How many bytes of memory it has.
    pub total: u64,
}

/// Ends the process at once with `status`, whatever an engine is doing on another thread.
///
/// Returning from `main`, or `std::process::exit`, destroys what llama.cpp still uses where it is in the middle of a forward pass.
pub fn leave(status: u8) -> ! {
    ffi::leave(status)
}

impl System {
    /// Asks llama.cpp.
    #[must_use]
    pub fn read() -> Self {
        let gpus = ffi::devices().into_iter().filter(|device| device.is_gpu);
        let gpu = |device: ffi::Device| Gpu {
            name: format!("{} ({})", device.description, device.name),
            free: device.free,
            total: device.total,
        };
        Self {
            cpu_features: cpu_features(ffi::system_info()),
            backends: ffi::backends(),
            gpus: gpus.map(gpu).collect(),
            available_memory: memory::available(),
        }
    }
}

/// What is set of `CPU : AVX2 = 1 | F16C = 1 | SVE_CNT = 0 | CUDA : ARCHS = 800 | `.
fn cpu_features(info: &str) -> Vec<String> {
    let mut of_cpu = false;
    let mut features = Vec::new();
    for mut entry in info.split('|').map(str::trim) {
        if let Some((backend, first)) = entry.split_once(" : ") {
            of_cpu = backend == "CPU";
            entry = first;
        }
        if let Some((name, value)) = entry.split_once(" = ").filter(|_| of_cpu)
            && value != "0"
        {
            features.push(name.to_owned());
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_cpu_that_are_set() {
        let info = "CUDA : ARCHS = 800 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 1 | SVE_CNT = 0 | LLAMAFILE = 1 | ";
        assert_eq!(cpu_features(info), ["SSE3", "AVX2", "LLAMAFILE"]);
        assert!(cpu_features("").is_empty());
    }

    #[test]
    fn this_machine_has_a_cpu() {
        let system = System::read();
        assert!(system.backends.iter().any(|backend| backend == "CPU"), "{system:?}");
        #[cfg(target_arch = "x86_64")]
        assert!(system.cpu_features.iter().any(|feature| feature == "SSE3"), "{system:?}");
    }
}
