// Builds the core module; `portolan plugin build` runs this and makes a component of it.
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.resolveTargetQuery(.{ .cpu_arch = .wasm32, .os_tag = .wasi });

    // The contract's bindings for C; src/contract.zig says in Zig what they are.
    const bindings = b.addSystemCommand(&.{ "portolan", "plugin", "bindings", "c" });
    const gen = bindings.addOutputDirectoryArg("gen");
    bindings.addArgs(&.{ "--world", "{{world}}", "--wit" });
    bindings.addDirectoryArg(b.path("wit"));

    const policy = b.createModule(.{
        .root_source_file = b.path("src/policy.zig"),
        .target = target,
        .optimize = .ReleaseSmall,
        .strip = true,
        .link_libc = true,
    });
    policy.addCSourceFile(.{ .file = gen.path(b, "{{snake}}.c") });
    policy.addObjectFile(gen.path(b, "{{snake}}_component_type.o"));

    const module = b.addExecutable(.{ .name = "policy", .root_module = policy });
    module.entry = .disabled;
    module.wasi_exec_model = .reactor;
    // Each instance has its own.
    module.stack_size = 65536;
    b.installArtifact(module);
}
