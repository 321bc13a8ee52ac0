//! What this process may compute on.

#[cfg(any(target_os = "linux", test))]
use std::{collections::BTreeSet, fs::read_to_string, path::Path};

#[cfg(any(target_os = "linux", test))]
use super::cgroup;

/// A list of more CPUs than Linux knows is none.
#[cfg(any(target_os = "linux", test))]
const MOST_CPUS: u32 = 1 << 16;

/// What this process may compute on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processor {
    /// CPUs that the system runs programs on. Where a core runs several threads, each of them is a CPU.
    pub online: u32,
    /// Those of them that the affinity of this process allows.
    pub cpus: u32,
    /// The physical cores that these are parts of.
    pub cores: u32,
    /// The share of all CPUs' time that its control groups grant, in CPUs.
    pub quota: Option<f64>,
}

impl Processor {
    /// This machine's, for this process. Other systems than Linux say no more than how many threads make sense.
    pub fn read() -> Self {
        let known =
            std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        let plain = Self { online: known, cpus: known, cores: known, quota: None };
        #[cfg(target_os = "linux")]
        return Self::of_linux(Path::new("/")).unwrap_or(plain);
        #[cfg(not(target_os = "linux"))]
        plain
    }

    /// As the files below `root` tell it; `None` if they do not.
    #[cfg(any(target_os = "linux", test))]
    fn of_linux(root: &Path) -> Option<Self> {
        let read = |path: &str| read_to_string(root.join(path)).ok();
        let allowed = allowed(&read("proc/self/status")?)?;
        // On machines that CPUs can be added to, these may be allowed before they are there.
        let online =
            read("sys/devices/system/cpu/online").and_then(|list| cpus(&list)).unwrap_or_else(|| allowed.clone());
        let usable: BTreeSet<u32> = allowed.intersection(&online).copied().collect();
        let siblings = |cpu| {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            read(&format!("{topology}/core_cpus_list")).or_else(|| read(&format!("{topology}/thread_siblings_list")))
        };
        let count = |cpus: &BTreeSet<u32>| u32::try_from(cpus.len()).ok().filter(|&count| count > 0);
        Some(Self {
            online: count(&online)?,
            cpus: count(&usable)?,
            cores: cores(&usable, siblings),
            quota: cgroup::quota(root),
        })
    }
}

/// The CPUs that a process may run on, from its `status` in `/proc`.
#[cfg(any(target_os = "linux", test))]
fn allowed(status: &str) -> Option<BTreeSet<u32>> {
    cpus(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// The numbers in a list as Linux writes it, such as `0-3,8`.
#[cfg(any(target_os = "linux", test))]
fn cpus(list: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// How many physical cores `cpus` are parts of, where `siblings` lists the CPUs of a CPU's core. Where it does not, that is a core.
#[cfg(any(target_os = "linux", test))]
fn cores(cpus: &BTreeSet<u32>, siblings: impl Fn(u32) -> Option<String>) -> u32 {
    let first = |cpu| siblings(cpu).and_then(|list| self::cpus(&list)?.first().copied()).unwrap_or(cpu);
    let cores: BTreeSet<u32> = cpus.iter().map(|&cpu| first(cpu)).collect();
    u32::try_from(cores.len()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lists_of_cpus_are_read_as_linux_writes_them() {
        let list = |text| cpus(text).map(|cpus| cpus.into_iter().collect::<Vec<_>>());
        assert_eq!(list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(list("5"), Some(vec![5]));
        assert_eq!((list(""), list("0-"), list("a"), list("0-4294967295")), (None, None, None, None));
        let status = "Name:\tsled\nCpus_allowed:\t05\nCpus_allowed_list:\t0,2\nMems_allowed_list:\t0\n";
        assert_eq!(allowed(status), cpus("0,2"));
        assert_eq!(allowed("Name:\tsled\n"), None);
    }

    #[test]
    fn hardware_threads_of_a_core_are_one_core() {
        // Two threads a core, as Intel numbers them; and the two of a core side by side, as AMD and Arm do.
        let apart = |cpu| Some(format!("{},{}\n", cpu % 4, cpu % 4 + 4));
        let beside = |cpu| Some(format!("{}-{}\n", cpu / 2 * 2, cpu / 2 * 2 + 1));
        assert_eq!(cores(&cpus("0-7").unwrap(), apart), 4);
        assert_eq!(cores(&cpus("0-7").unwrap(), beside), 4);
        // Parts of cores are cores: the others may belong to somebody else.
        assert_eq!(cores(&cpus("0,4").unwrap(), apart), 1);
        assert_eq!(cores(&cpus("0,2,4").unwrap(), beside), 3);
        assert_eq!(cores(&cpus("0-3").unwrap(), |_| None), 4);
        assert_eq!(cores(&cpus("0-3").unwrap(), |_| Some("?".to_owned())), 4);
    }

    #[test]
    fn a_processor_is_what_affinity_topology_and_quota_leave() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Processor::of_linux(root.path()), None);
        // A virtual machine that may get 128 CPUs and has 8, two to a core.
        write("proc/self/status", "Cpus_allowed_list:\t0-127\n");
        write("sys/devices/system/cpu/online", "0-7\n");
        for cpu in 0..8 {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            write(&path, &format!("{}-{}\n", cpu / 2 * 2, cpu / 2 * 2 + 1));
        }
        let found = |cpus, cores, quota| Some(Processor { online: 8, cpus, cores, quota });
        assert_eq!(Processor::of_linux(root.path()), found(8, 4, None));
        write("proc/self/status", "Cpus_allowed_list:\t0,2-3,7\n");
        write("proc/self/cgroup", "0::/\n");
        write("proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        write("sys/fs/cgroup/cpu.max", "150000 100000\n");
        assert_eq!(Processor::of_linux(root.path()), found(4, 3, Some(1.5)));
        // Of an affinity to CPUs that are not there nothing follows.
        write("proc/self/status", "Cpus_allowed_list:\t9\n");
        assert_eq!(Processor::of_linux(root.path()), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_no_fewer_cpus_than_the_standard_library_says() {
        let known = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
        let Processor { online, cpus, cores, .. } = Processor::read();
        assert!(online >= cpus && cpus >= known && cpus >= cores && cores >= 1);
    }
}
