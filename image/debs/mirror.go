package debs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Mirror holds the addresses that the machine's own apt configuration uses
// for Debian. None is written into the repository.
type Mirror struct {
	Main     string // archive of releases
	Security string // archive of security updates; empty where there is none
}

// MachineMirror asks apt for the archive addresses it is configured with.
func MachineMirror(ctx context.Context) (Mirror, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)", "Created-By: Packages").Output()
	if err != nil {
		return Mirror{}, fmt.Errorf("asking apt for its sources: %w", err)
	}
	return parseTargets(string(out))
}

// parseTargets picks the first Debian archive and the first security archive
// that offer the component main.
func parseTargets(out string) (Mirror, error) {
	var m Mirror
	for _, line := range strings.Split(out, "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 4 || f[2] != "main" || f[3] != "Debian" {
			continue
		}
		uri := strings.TrimSuffix(f[0], "/")
		switch {
		case strings.HasSuffix(f[1], "-security"):
			if m.Security == "" {
				m.Security = uri
			}
		case m.Main == "":
			m.Main = uri
		}
	}
	if m.Main == "" {
		return Mirror{}, errors.New("apt has no Debian archive among its sources; run apt-get update first")
	}
	return m, nil
}

// lines returns "URI SUITE" for the release and its updates.
func (m Mirror) lines(release string) []string {
	out := []string{m.Main + " " + release, m.Main + " " + release + "-updates"}
	if m.Security != "" {
		out = append(out, m.Security+" "+release+"-security")
	}
	return out
}

// Sources returns a deb822 file for a stable release on this mirror, as
// mkosi's sandbox tree takes it.
func (m Mirror) Sources(release, components, keyring string) string {
	s := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s %s-updates\nComponents: %s\nSigned-By: %s\n", m.Main, release, release, components, keyring)
	if m.Security != "" {
		s += fmt.Sprintf("\nTypes: deb\nURIs: %s\nSuites: %s-security\nComponents: %s\nSigned-By: %s\n", m.Security, release, components, keyring)
	}
	return s
}

// MachineSources returns the sources files in dir, as apt reads them, that name
// an archive which is wanted: one of the words stands in the file's name or
// text, whatever its case. They are taken as they are, keys included.
func MachineSources(dir string, words []string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(words) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the machine's apt sources: %w", err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".list" && ext != ".sources" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the machine's apt sources: %w", err)
		}
		all := strings.ToLower(e.Name() + "\n" + string(text))
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(all, w) }) {
			out[e.Name()] = string(text)
		}
	}
	return out, nil
}

// MachineProxies returns the machine's apt proxy settings as apt
// configuration text, for an apt that runs with a configuration of its own.
func MachineProxies(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt for its proxies: %w", err)
	}
	return proxyLines(string(out)), nil
}

// proxyLines keeps the lines that set an http or https proxy.
func proxyLines(dump string) string {
	var b strings.Builder
	for _, line := range strings.Split(dump, "\n") {
		low := strings.ToLower(line)
		if strings.HasPrefix(low, "acquire::http") && strings.Contains(low, "::proxy") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
