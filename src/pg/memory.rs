//! Memory limits of this process.

use super::settings;

/// Memory for one operation of a query, as for a hash table: `work_mem` times `hash_mem_multiplier`.
pub fn query_bytes() -> usize {
    (f64::from(settings::work_mem().max(64)) * 1024.0 * settings::hash_mem_multiplier().max(1.0)) as usize
}

/// Memory available without swapping: the kernel's estimate, or the rest of the control group's limit if that is less.
/// None if neither can be read.
pub fn available_bytes() -> Option<u64> {
    let host = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let group = control_group_available();
    match (host, group) {
        (Some(host), Some(group)) => Some(host.min(group)),
        (host, group) => host.or(group),
    }
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst of the kernel).
fn control_group_available() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let read = |file: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?.trim().parse().ok()
    };
    // The page cache counts as used, but the kernel frees it on demand.
    let statistics = std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.stat")).ok()?;
    let used = read("memory.current")?.saturating_sub(page_cache(&statistics));
    Some(read("memory.max")?.saturating_sub(used))
}

fn page_cache(statistics: &str) -> u64 {
    let value = |name: &str| {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    value("active_file ") + value("inactive_file ")
}

#[cfg(test)]
mod tests {
    use super::{meminfo_available, page_cache};

    #[test]
    fn the_page_cache_of_a_control_group_counts_as_available() {
        let statistics = "anon 5\nfile 100\ninactive_anon 7\nactive_file 30\ninactive_file 12\n";
        assert_eq!(page_cache(statistics), 42);
        assert_eq!(page_cache(""), 0);
    }

    #[test]
    fn the_kernels_estimate_is_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:     42 kB\nBuffers: 1 kB\n";
        assert_eq!(meminfo_available(text), Some(42 * 1024));
        assert_eq!(meminfo_available("nothing"), None);
    }
}
