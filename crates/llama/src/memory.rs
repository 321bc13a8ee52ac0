//! How much memory this process may still take.

use std::fs;
use std::path::Path;

/// How many bytes of memory this process may still take, where the operating system tells (Linux): of what the machine has, and of
/// what its control groups leave it.
pub(super) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|meminfo| of_machine(&meminfo));
    let groups = fs::read_to_string("/proc/self/cgroup").ok();
    let groups = groups.and_then(|groups| of_groups(&groups, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(groups).min()
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

/// What is left in the control groups of `/proc/self/cgroup`, and in those that they are in, below `root`.
fn of_groups(groups: &str, root: &Path) -> Option<u64> {
    let groups = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, Path::new(fields.next()?.trim_start_matches('/')));
        match controllers {
            "" => Some((root.to_owned(), path, &VERSION_2)),
            of_memory if of_memory.split(',').any(|name| name == "memory") => {
                Some((root.join("memory"), path, &VERSION_1))
            }
            _ => None,
        }
    });
    groups.flat_map(|(root, path, names)| path.ancestors().filter_map(move |path| names.left(&root.join(path)))).min()
}

/// What a control group's files are called.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// What of its usage is files that can be read again, in `memory.stat`.
    files: [&'static str; 2],
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};
const VERSION_2: Names =
    Names { limit: "memory.max", usage: "memory.current", files: ["inactive_file", "active_file"] };

impl Names {
    /// What the limit of the group at `folder` leaves, if it has one.
    fn left(&self, folder: &Path) -> Option<u64> {
        let read = |name| fs::read_to_string(folder.join(name)).ok();
        let number = |name| read(name)?.trim().parse::<u64>().ok();
        let stat = read("memory.stat").unwrap_or_default();
        let files = stat.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            self.files.contains(&name).then(|| bytes.parse::<u64>().ok())?
        });
        let taken = number(self.usage).unwrap_or(0).saturating_sub(files.sum());
        Some(number(self.limit)?.saturating_sub(taken))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn group(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_machine_tells_what_is_available() {
        let meminfo = "MemTotal:       24689764 kB\nMemFree:         1234 kB\nMemAvailable:       2048 kB\n";
        assert_eq!(of_machine(meminfo), Some(2 << 20));
        assert_eq!(of_machine("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_tightest_control_group_counts_without_the_files_that_it_has_read() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), &[("memory.stat", "inactive_file 7\n")]);
        let outer = root.path().join("outer");
        let stat = "anon 500\ninactive_file 100\nactive_file 200\n";
        group(&outer, &[("memory.max", "1000\n"), ("memory.current", "800\n"), ("memory.stat", stat)]);
        group(&outer.join("inner"), &[("memory.max", "max\n"), ("memory.current", "800\n")]);
        assert_eq!(of_groups("0::/outer/inner\n", root.path()), Some(500));
        assert_eq!(of_groups("0::/\n", root.path()), None);
        assert_eq!(of_groups("", root.path()), None);
    }

    #[test]
    fn control_groups_of_the_first_version_count_as_well() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "1000\n"), ("memory.usage_in_bytes", "900\n")];
        group(&root.path().join("memory/docker"), &files);
        let groups = "9:cpu,cpuacct:/docker\n5:memory:/docker\n1:name=systemd:/\n";
        assert_eq!(of_groups(groups, root.path()), Some(100));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_some_and(|bytes| bytes > 0));
    }
}
