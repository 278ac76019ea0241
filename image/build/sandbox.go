package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sandboxVerb is the hidden verb under which the program re-executes itself
// inside new mount and process namespaces.
const sandboxVerb = "sandbox"

// bind is one directory or file of the host shown inside the sandbox.
type bind struct {
	from, to string
	readOnly bool
}

// sandbox runs a program with the tools tree as its root directory. All
// mounts live in a mount namespace and all processes in a process namespace
// of their own: when the command ends, or this process dies, the kernel
// removes both, so that nothing stays mounted or running.
func (b *builder) sandbox(ctx context.Context, binds []bind, name string, args ...string) *exec.Cmd {
	argv := []string{sandboxVerb, b.tree().Dir}
	for _, m := range binds {
		mode := "rw"
		if m.readOnly {
			mode = "ro"
		}
		argv = append(argv, mode+":"+m.from+":"+m.to)
	}
	argv = append(argv, "--", name)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(argv, args...)...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb", "TMPDIR=/tmp",
	}
	for _, v := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if val, ok := os.LookupEnv(v); ok {
			cmd.Env = append(cmd.Env, v+"="+val)
		}
	}
	if b.again {
		cmd.Env = append(append(cmd.Env, secondEnv...), clockEnv("/")...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// enterSandbox is the child's side: args are TREE, binds, "--", command.
func enterSandbox(args []string) error {
	if len(args) < 3 {
		return errors.New("sandbox: too few arguments")
	}
	tree, args := args[0], args[1:]
	var binds []bind
	for len(args) > 0 && args[0] != "--" {
		f := strings.SplitN(args[0], ":", 3)
		if len(f) != 3 {
			return fmt.Errorf("sandbox: bind %q", args[0])
		}
		binds = append(binds, bind{readOnly: f[0] == "ro", from: f[1], to: f[2]})
		args = args[1:]
	}
	if len(args) < 2 {
		return errors.New("sandbox: no command")
	}
	if os.Getpid() != 1 {
		return errors.New("sandbox: not started by the builder")
	}
	host := os.Getenv("HOSTNAME")
	if host == "" {
		host = "localhost"
	}
	if err := unix.Sethostname([]byte(host)); err != nil {
		return fmt.Errorf("sandbox: naming the host: %w", err)
	}
	if err := pivot(tree, binds); err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.Dir = "/"
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s in the tools tree: %w", args[1], err)
	}
	return nil
}

// pivot makes tree the root directory, read-only, with the kernel's file
// systems, a scratch /tmp and the given binds.
func pivot(tree string, binds []bind) error {
	type mount struct {
		from, to, fs string
		flags        uintptr
		data         string
	}
	in := func(p string) string { return filepath.Join(tree, p) }
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{tree, tree, "", unix.MS_BIND, ""},
		{"proc", in("proc"), "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys", in("sys"), "", unix.MS_BIND | unix.MS_REC, ""},
		{"/dev", in("dev"), "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", in("tmp"), "tmpfs", 0, "mode=1777"},
		{"tmpfs", in("run"), "tmpfs", 0, "mode=0755"},
		{"tmpfs", in("root"), "tmpfs", 0, "mode=0700"},
		{"/etc/resolv.conf", in("etc/resolv.conf"), "", unix.MS_BIND, ""},
		{"/etc/hosts", in("etc/hosts"), "", unix.MS_BIND, ""},
	}
	for _, m := range binds {
		mounts = append(mounts, mount{m.from, in(m.to), "", unix.MS_BIND, ""})
		if m.readOnly {
			mounts = append(mounts, mount{"", in(m.to), "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
		}
	}
	mounts = append(mounts, mount{"", tree, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
	for _, m := range mounts {
		if err := unix.Mount(m.from, m.to, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("sandbox: mounting %s: %w", m.to, err)
		}
	}
	if err := unix.Chdir(tree); err != nil {
		return fmt.Errorf("sandbox: entering the tree: %w", err)
	}
	// pivot_root(".", ".") stacks the old root under the new one, see pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("sandbox: changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("sandbox: leaving the old root: %w", err)
	}
	return os.Chdir("/")
}
