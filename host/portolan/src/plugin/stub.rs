//! WASI preview 1 that does nothing, inside the component: for languages whose runtime asks for a system (Go, C++). The clock
//! counts how often it was asked, random numbers come from a fixed seed, output is dropped, there are no files, and an exit
//! traps. So the component asks the host for nothing, and stays a function of what it is given.

use std::fmt::Write as _;

/// The module whose imports it answers.
pub(crate) const NAME: &str = "wasi_snapshot_preview1";

/// Functions that say no: their parameters, and the number of the error (8: no such descriptor, 52: not supported).
const REFUSING: &[(&str, &str, u32)] = &[
    ("fd_advise", "i32 i64 i64 i32", 52),
    ("fd_allocate", "i32 i64 i64", 52),
    ("fd_close", "i32", 8),
    ("fd_datasync", "i32", 52),
    ("fd_fdstat_get", "i32 i32", 8),
    ("fd_fdstat_set_flags", "i32 i32", 52),
    ("fd_fdstat_set_rights", "i32 i64 i64", 52),
    ("fd_filestat_get", "i32 i32", 8),
    ("fd_filestat_set_size", "i32 i64", 52),
    ("fd_filestat_set_times", "i32 i64 i64 i32", 52),
    ("fd_pread", "i32 i32 i32 i64 i32", 52),
    ("fd_prestat_dir_name", "i32 i32 i32", 8),
    ("fd_prestat_get", "i32 i32", 8),
    ("fd_pwrite", "i32 i32 i32 i64 i32", 52),
    ("fd_read", "i32 i32 i32 i32", 52),
    ("fd_readdir", "i32 i32 i32 i64 i32", 52),
    ("fd_renumber", "i32 i32", 52),
    ("fd_seek", "i32 i64 i32 i32", 52),
    ("fd_sync", "i32", 52),
    ("fd_tell", "i32 i32", 52),
    ("path_create_directory", "i32 i32 i32", 52),
    ("path_filestat_get", "i32 i32 i32 i32 i32", 52),
    ("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32", 52),
    ("path_link", "i32 i32 i32 i32 i32 i32 i32", 52),
    ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32", 52),
    ("path_readlink", "i32 i32 i32 i32 i32 i32", 52),
    ("path_remove_directory", "i32 i32 i32", 52),
    ("path_rename", "i32 i32 i32 i32 i32 i32", 52),
    ("path_symlink", "i32 i32 i32 i32 i32", 52),
    ("path_unlink_file", "i32 i32 i32", 52),
    ("proc_raise", "i32", 52),
    ("sock_accept", "i32 i32 i32", 52),
    ("sock_recv", "i32 i32 i32 i32 i32 i32", 52),
    ("sock_send", "i32 i32 i32 i32 i32", 52),
    ("sock_shutdown", "i32 i32", 52),
];

/// Functions that do something, however little.
const ANSWERING: &str = r#"
  (global $asked (mut i64) (i64.const 0))
  (global $random (mut i64) (i64.const 0x2545F4914F6CDD1D))
  (func $none (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    (i32.const 0))
  (func (export "args_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "args_sizes_get") (param i32 i32) (result i32) (call $none (local.get 0) (local.get 1)))
  (func (export "environ_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "environ_sizes_get") (param i32 i32) (result i32) (call $none (local.get 0) (local.get 1)))
  (func (export "clock_res_get") (param i32 i32) (result i32)
    (i64.store (local.get 1) (i64.const 1))
    (i32.const 0))
  ;; Each look is a microsecond later than the one before, from 2001-09-09 on.
  (func (export "clock_time_get") (param i32 i64 i32) (result i32)
    (global.set $asked (i64.add (global.get $asked) (i64.const 1000)))
    (i64.store (local.get 2) (i64.add (global.get $asked) (i64.const 1000000000000000000)))
    (i32.const 0))
  ;; All is written, nowhere.
  (func (export "fd_write") (param $fd i32) (param $at i32) (param $count i32) (param $written i32) (result i32)
    (local $sum i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $more)))
    (i32.store (local.get $written) (local.get $sum))
    (i32.const 0))
  ;; Everything that is waited for has happened: an event of 32 bytes for each subscription of 48.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (local $left i32)
    (local.set $left (local.get $count))
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $left)))
        (i64.store (local.get $out) (i64.load (local.get $in)))
        (i64.store offset=8 (local.get $out) (i64.const 0))
        (i64.store offset=16 (local.get $out) (i64.const 0))
        (i64.store offset=24 (local.get $out) (i64.const 0))
        (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (local.set $out (i32.add (local.get $out) (i32.const 32)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $more)))
    (i32.store (local.get $events) (local.get $count))
    (i32.const 0))
  (func (export "proc_exit") (param i32) unreachable)
  (func (export "sched_yield") (result i32) (i32.const 0))
  ;; xorshift, byte by byte.
  (func (export "random_get") (param $at i32) (param $count i32) (result i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $count)))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 13))))
        (global.set $random (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 7))))
        (global.set $random (i64.xor (global.get $random) (i64.shl (global.get $random) (i64.const 17))))
        (i64.store8 (local.get $at) (i64.shr_u (global.get $random) (i64.const 32)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $more)))
    (i32.const 0))
"#;

/// The adapter, as a core module for `wit_component`.
///
/// # Errors
/// Never: the text is ours.
pub(crate) fn adapter() -> anyhow::Result<Vec<u8>> {
    let mut text = String::from("(module\n  (import \"env\" \"memory\" (memory 0))\n");
    text.push_str(ANSWERING);
    for (name, parameters, error) in REFUSING {
        // Writing to a string cannot fail.
        writeln!(text, "  (func (export \"{name}\") (param {parameters}) (result i32) (i32.const {error}))")
            .ok();
    }
    text.push(')');
    Ok(wat::parse_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_preview_1_is_there() {
        let module = adapter().unwrap();
        let text = String::from_utf8_lossy(&module);
        let names = ["clock_time_get", "fd_write", "path_open", "poll_oneoff", "proc_exit", "random_get"];
        assert!(names.iter().all(|name| text.contains(name)));
        assert_eq!(REFUSING.len() + ANSWERING.matches("(export ").count(), 46);
    }
}
