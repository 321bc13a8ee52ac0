//! The CPU quota of the control groups that this process is in, of both versions.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// The versions of control groups, by the file systems that show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// How many CPUs' time the control groups of this process grant, as the files below `root` tell it; `None` where there is no limit.
pub(super) fn quota(root: &Path) -> Option<f64> {
    let read = |path: &str| read_to_string(root.join(path)).ok();
    let (groups, mounts) = (read("proc/self/cgroup")?, read("proc/self/mountinfo")?);
    let limits = groups.lines().filter_map(group).filter_map(|(version, group)| {
        let (top, mount) = mounts.lines().find_map(|line| self::mount(line, version))?;
        let mount = root.join(mount.strip_prefix("/").unwrap_or(mount));
        let below = below(group, top);
        // A group has no more than those that it is in.
        let limits = below.ancestors().filter_map(|group| limit(&mount.join(group), version));
        limits.min_by(f64::total_cmp)
    });
    limits.min_by(f64::total_cmp)
}

/// The group that a line of `/proc/self/cgroup` names, if it may limit CPU time.
fn group(line: &str) -> Option<(Version, &Path)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, Path::new(fields.next()?));
    match (id, controllers) {
        ("0", "") => Some((Version::Two, path)),
        _ if controllers.split(',').any(|name| name == "cpu") => Some((Version::One, path)),
        _ => None,
    }
}

/// Which group a line of `/proc/self/mountinfo` shows, with those below it, and where; if it shows CPU time in this version.
fn mount(line: &str, version: Version) -> Option<(&Path, &Path)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (top, point) = (fields.next()?, fields.next()?);
    let mut fields = system.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let is_it = match version {
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        Version::Two => kind == "cgroup2",
    };
    is_it.then_some((Path::new(top), Path::new(point)))
}

/// Where `group` is below `top`; a group that is not shown counts as `top`, which a container may see in place of its own.
fn below(group: &Path, top: &Path) -> PathBuf {
    let below = group.strip_prefix(top).unwrap_or(Path::new(""));
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain { below.to_owned() } else { PathBuf::new() }
}

/// The limit of the group that `folder` shows, in CPUs.
fn limit(folder: &Path, version: Version) -> Option<f64> {
    let read = |name| read_to_string(folder.join(name)).ok();
    match version {
        Version::One => share(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?),
        Version::Two => {
            let limit = read("cpu.max")?;
            let (quota, period) = limit.split_once(' ')?;
            share(quota, period)
        }
    }
}

/// Microseconds of CPU time in each period, as CPUs. No limit is written as `max` or `-1`.
fn share(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (u32, u32) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0 && period > 0).then(|| f64::from(quota) / f64::from(period))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    /// The quota where these files are all that there is.
    fn of(files: &[(&str, &str)]) -> Option<f64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        quota(root.path())
    }

    const UNIFIED: (&str, &str) = (
        "proc/self/mountinfo",
        "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
         31 25 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    #[test]
    fn version_two_grants_the_least_of_the_groups_that_contain_the_process() {
        let group = ("proc/self/cgroup", "0::/user.slice/app.service\n");
        assert_eq!(of(&[UNIFIED, group]), None);
        let app = ("sys/fs/cgroup/user.slice/app.service/cpu.max", "400000 100000\n");
        assert_eq!(of(&[UNIFIED, group, app]), Some(4.0));
        let slice = ("sys/fs/cgroup/user.slice/cpu.max", "250000 100000\n");
        assert_eq!(of(&[UNIFIED, group, app, slice]), Some(2.5));
        let unlimited = ("sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
        assert_eq!(of(&[UNIFIED, group, app, unlimited]), Some(4.0));
        assert_eq!(of(&[UNIFIED, group, unlimited]), None);
    }

    #[test]
    fn a_container_reads_its_own_group_at_the_top() {
        let max = ("sys/fs/cgroup/cpu.max", "50000 100000\n");
        assert_eq!(of(&[UNIFIED, ("proc/self/cgroup", "0::/\n"), max]), Some(0.5));
        // The process was moved out of what the container sees.
        assert_eq!(of(&[UNIFIED, ("proc/self/cgroup", "0::/../other\n"), max]), Some(0.5));
    }

    #[test]
    fn version_one_is_read_where_the_cpu_controller_is_mounted() {
        let mounts = |top: &str| {
            format!(
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                 33 31 0:30 {top} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                 32 31 0:29 {top} /sys/fs/cgroup/cpu rw,relatime shared:2 master:1 - cgroup cgroup rw,cpu,cpuacct\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            )
        };
        let of = |top: &str, group: &str, files: &[(&str, &str)]| {
            let (mounts, groups) = (mounts(top), format!("4:memory:/m\n3:cpuset:/c\n2:cpu,cpuacct:{group}\n0::/\n"));
            of(&[&[("proc/self/mountinfo", mounts.as_str()), ("proc/self/cgroup", &groups)], files].concat())
        };
        let period = ("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
        let quota = |quota| ("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", quota);
        assert_eq!(of("/", "/job", &[period, quota("300000\n")]), Some(3.0));
        assert_eq!(of("/", "/job", &[period, quota("-1\n")]), None);
        // The group's own folder is what a container sees, under the name that it has outside.
        let own =
            [("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n"), ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")];
        assert_eq!(of("/docker/abc", "/docker/abc", &own), Some(1.5));
        assert_eq!(of("/", "/docker/abc", &own), Some(1.5));
    }

    #[test]
    fn files_that_say_something_else_are_no_limit() {
        for odd in ["", "100000", "100000 0", "0 100000", "-5 100000", "x y", "99999999999 100000"] {
            assert_eq!(of(&[UNIFIED, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", odd)]), None, "{odd}");
        }
        assert_eq!(of(&[UNIFIED, ("proc/self/cgroup", "nonsense\n0:\n")]), None);
        assert_eq!(of(&[("proc/self/mountinfo", "nonsense - \n"), ("proc/self/cgroup", "0::/\n")]), None);
    }
}
