package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"cocoon/hostd/wire"
	"cocoon/internal/fault"
)

// Peers says who may call besides root and the daemon's own user, whom the
// kernel names at the other end of the socket (unix(7), SO_PEERCRED).
type Peers struct {
	UIDs []uint32
	GIDs []uint32
}

// LookUpPeers finds users and groups by name.
func LookUpPeers(users, groups []string) (Peers, error) {
	var p Peers
	id := func(s string, err error) (uint32, error) {
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseUint(s, 10, 32)
		return uint32(n), err
	}
	for _, name := range users {
		u, err := user.Lookup(name)
		if err != nil {
			return Peers{}, fmt.Errorf("looking for user %.64q: %w", name, err)
		}
		n, err := id(u.Uid, nil)
		if err != nil {
			return Peers{}, fmt.Errorf("looking for user %.64q: %w", name, err)
		}
		p.UIDs = append(p.UIDs, n)
	}
	for _, name := range groups {
		g, err := user.LookupGroup(name)
		if err != nil {
			return Peers{}, fmt.Errorf("looking for group %.64q: %w", name, err)
		}
		n, err := id(g.Gid, nil)
		if err != nil {
			return Peers{}, fmt.Errorf("looking for group %.64q: %w", name, err)
		}
		p.GIDs = append(p.GIDs, n)
	}
	return p, nil
}

// Open says whether others than the daemon's user may call, for whom the
// socket's file has to be open.
func (p Peers) Open() bool { return len(p.UIDs)+len(p.GIDs) > 0 }

type peerKey struct{}

// ConnContext remembers who is at the other end; for http.Server.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cerr != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, *cred)
}

// allows decides who may call, in this one place: whom the kernel names at the
// other end of a UNIX socket, or who has shown a certificate that TLS has
// verified against the configured authority (TLSFiles). A caller of whom
// nothing is known is refused.
func (p Peers) allows(r *http.Request) *fault.Fault {
	cred, ok := r.Context().Value(peerKey{}).(unix.Ucred)
	if ok && (cred.Uid == 0 || cred.Uid == uint32(os.Geteuid()) || slices.Contains(p.UIDs, cred.Uid) || slices.Contains(p.GIDs, cred.Gid) || p.inGroup(cred.Uid)) {
		return nil
	}
	if !ok && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return nil
	}
	return fault.New(fault.ExitNotReady, wire.CodeForbidden, "run it as root, or name your user in allow_users or a group in allow_groups of hostd.json",
		"calling the host daemon: user %d may not", cred.Uid)
}

// inGroup asks for the groups that a user has beside the first.
func (p Peers) inGroup(uid uint32) bool {
	if len(p.GIDs) == 0 {
		return false
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return false
	}
	ids, err := u.GroupIds()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.GIDs, func(g uint32) bool { return slices.Contains(ids, strconv.FormatUint(uint64(g), 10)) })
}
