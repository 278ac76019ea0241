package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cocoon/enclave/datadisk"
	"cocoon/enclave/fwcfg"
	"cocoon/enclave/platform"
	"cocoon/enclave/seal"
	"cocoon/internal/durable"
)

// openData opens the data disk, if the machine has one. It comes after the
// latch: everything is measured by then, and the disk's key is sealed to it.
func (w *Worker) openData(ctx context.Context) error {
	ticket, err := readTicket(os.DirFS(fwcfg.Dir))
	if err != nil {
		return err
	}
	st, err := datadisk.Open(ctx, w.disks(), datadisk.Options{
		Sealer: func() (seal.Sealer, error) { return w.sealer(ctx) }, Ticket: ticket, Random: rand.Reader})
	if err != nil || st.Dir == "" {
		return err
	}
	w.dataDir, w.dataBlank = st.Dir, st.Formatted
	n, err := countBoot(st.Dir)
	if err != nil {
		return err
	}
	w.log.Info("data disk opened", "formatted", st.Formatted, "boot", n)
	return nil
}

func (w *Worker) disks() datadisk.Linux {
	return datadisk.Linux{Reaper: w.reaper, Self: executable(), Log: w.log}
}

// sealer is this machine's.
func (w *Worker) sealer(ctx context.Context) (seal.Sealer, error) {
	return platform.Sealer(ctx, w.machine, platform.Sealing{Config: w.config, Enclave: w.sealingEnclave()})
}

// readTicket returns the ticket that the host kept, nil where it has none.
func readTicket(files fs.FS) ([]byte, error) {
	b, err := fwcfg.Read(files, fwcfg.Ticket, datadisk.MaxTicket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, configFault("ticket.json", err)
}

// sealingEnclave reaches the sealing enclave at the operator's address. Which
// enclave is believed is the config's word: the address only finds it.
func (w *Worker) sealingEnclave() func(context.Context) (net.Conn, error) {
	addr := w.operator.Sealer
	if addr == "" {
		return nil
	}
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", addr)
	}
}

// countBoot counts the boots that saw this disk. The host can put back an
// older disk, so the number is for people who look for a cause; package anchor
// decides.
func countBoot(dir string) (int, error) {
	path := filepath.Join(dir, "boots")
	n := 0
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if n, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil || n < 1 {
			return 0, fmt.Errorf("counting boots: %q is no count", b)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("counting boots: %w", err)
	}
	n++
	if err := durable.Write(path, []byte(strconv.Itoa(n)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("counting boots: %w", err)
	}
	return n, nil
}

// booksDir is where this boot keeps its books: a directory of its own, named
// by the receipt key, so that no boot takes another's books for its own. On a
// data disk they outlive the boot.
func (w *Worker) booksDir() string {
	base := w.dataDir
	if base == "" {
		base = Dir
	}
	return filepath.Join(base, "books", w.keys.ReceiptPublic().String())
}
