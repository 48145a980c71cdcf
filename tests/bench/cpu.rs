//! Processor time of processes, as the kernel counts it: what figures by row and by query rest on. It knows nothing of what the
//! processes do.

/// Seconds of processor time of a process, of its children that have ended, and of all that run below it.
pub(crate) fn cpu(pid: u32) -> f64 {
    let of = |pid: u32, ended: bool| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may have blanks; what follows its bracket has none.
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect();
        fields.get(11..if ended { 15 } else { 13 }).unwrap_or_default().iter().sum::<u64>()
    };
    let (mut spent, mut below) = (of(pid, true), children(pid));
    while let Some(child) = below.pop() {
        spent += of(child, false);
        below.extend(children(child));
    }
    spent as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The children of a process that run; none when it does not itself.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}
