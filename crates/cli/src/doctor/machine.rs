//! Looks at this machine.

use std::path::Path;

use sled_llama::System;
use sled_model::catalog::Store;

use super::facts::{Gpu, Machine};
use crate::disk;
use sled_launch::measure;
use sled_launch::threads::{Count, Processor};

/// What this machine is and has, where an engine gets `threads`.
pub fn look(threads: &Count) -> Machine {
    let System { cpu_features, backends, gpus, available_memory } = System::read();
    let folder = Store::from_env().map(|store| store.folder).ok();
    let gpu = |gpu: sled_llama::Gpu| Gpu { name: gpu.name, memory_free: gpu.free, memory: gpu.total };
    Machine {
        cpu: measure::cpu_name(),
        architecture: std::env::consts::ARCH.to_owned(),
        unused_features: unused(&cpu_features),
        has_bf16: has_bf16(),
        features: cpu_features,
        cores: Processor::read().cores,
        threads: threads.threads,
        threads_why: threads.why.clone(),
        load: load(),
        memory_available: available_memory,
        has_nvidia: Path::new("/dev/nvidiactl").exists(),
        backends,
        gpus: gpus.into_iter().map(gpu).collect(),
        disk_free: folder.as_deref().and_then(disk::free),
        model_folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
    }
}

/// The instruction sets, as llama.cpp names them, that the processor has and that are not among `used`.
fn unused(used: &[String]) -> Vec<String> {
    #[cfg(target_arch = "aarch64")]
    let there = [
        ("DOTPROD", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("MATMUL_INT8", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    #[cfg(target_arch = "x86_64")]
    let there = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("AVX512", std::arch::is_x86_feature_detected!("avx512f")),
        ("AVX512_VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("AVX512_BF16", has_bf16()),
    ];
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    let there: [(&str, bool); 0] = [];
    let missed = there.iter().filter(|(name, there)| *there && !used.iter().any(|used| used == name));
    missed.map(|(name, _)| (*name).to_owned()).collect()
}

/// Whether the processor computes BF16 natively. Those with AMX also have it in AVX-512.
fn has_bf16() -> bool {
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    return false;
}

/// The load of the last minute, where Linux tells it.
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
