//! Figures of the process.

use super::{Family, counter, gauge};

/// The process, under the names that every exporter uses. Empty where `/proc` is not there.
pub(super) fn families() -> Vec<Family> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
    let mut all = Vec::new();
    // `statm` counts in pages.
    let page = rustix::param::page_size() as f64;
    if let Some(pages) = read("statm").and_then(|s| s.split(' ').nth(1)?.parse::<f64>().ok()) {
        all.push(gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            pages * page,
        ));
    }
    let stat = read("stat").unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    // Fields 14 and 15 of `proc(5)`; the list begins with the fourth.
    if let (Some(user), Some(system)) = (fields.get(10), fields.get(11)) {
        let cpu = (user + system) / ticks;
        all.push(counter("process_cpu_seconds", "CPU time", cpu));
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        all.push(gauge(
            "process_open_fds",
            "Open file descriptors",
            open.count() as f64,
        ));
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let help = "File descriptors that may be open";
        all.push(gauge("process_max_fds", help, most as f64));
    }
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "));
    let boot = boot.and_then(|at| at.trim().parse::<f64>().ok());
    // Field 22 counts from the boot, in clock ticks.
    if let (Some(boot), Some(since)) = (boot, fields.get(18)) {
        let started = boot + since / ticks;
        let help = "Time of the process' start";
        all.push(gauge("process_start_time_seconds", help, started));
    }
    all
}
