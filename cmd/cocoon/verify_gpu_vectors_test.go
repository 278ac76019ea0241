package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/result"
)

// TestRealGPUEvidence verifies real evidence as a user does.
func TestRealGPUEvidence(t *testing.T) {
	dir := filepath.Join(vectors.Dir(t), "gpu", "evidence")
	policy := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"allow_unmeasured":true,"ocsp":{"allow_missing":true},"floors":[{"arch":"hopper","driver":"590.12","vbios":"96.00.A5.00.01"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	args := func(names []string, more ...string) []string {
		out := []string{"verify", "gpu", "--json"}
		for _, n := range names {
			out = append(out, "--report", filepath.Join(dir, n, "report.bin"), "--chain", filepath.Join(dir, n, "chain.pem"))
		}
		nonce, err := os.ReadFile(filepath.Join(dir, names[0], "nonce.hex"))
		if err != nil {
			t.Fatal(err)
		}
		return append(append(out, "--nonce", strings.TrimSpace(string(nonce))), more...)
	}
	var board []string
	for i := range 8 {
		board = append(board, fmt.Sprint("nvtrust-ppcie-gpu-", i))
	}
	for i := range 4 {
		board = append(board, fmt.Sprint("nvtrust-ppcie-switch-", i))
	}
	const google, sw = "google-hopper-550.90.07", "sdk-switch-c"
	for name, c := range map[string]struct {
		args     []string
		exit     int
		measured string
	}{
		"a GPU with its RIMs":           {args([]string{google}, "--arch", "HOPPER", "--at", "2025-09-01T00:00:00Z", "--rim", filepath.Join(dir, google, "driver.swidtag"), "--rim", filepath.Join(dir, google, "vbios.swidtag")), fault.ExitOK, result.Pass},
		"a GPU after its RIMs' signers": {args([]string{google}, "--at", "2026-11-22T00:00:00Z", "--rim", filepath.Join(dir, google, "driver.swidtag"), "--rim", filepath.Join(dir, google, "vbios.swidtag")), fault.ExitRefused, result.Skip},
		"a switch with its RIM":         {args([]string{sw}, "--arch", "ls10", "--at", "2026-06-01T00:00:00Z", "--rim", filepath.Join(dir, sw, "bios.xml")), fault.ExitOK, result.Pass},
		"a GPU without RIMs":            {args([]string{"google-mpt-blackwell-0"}, "--no-rim"), fault.ExitPolicy, result.Skip},
		"another GPU's signature":       {args([]string{"sdk-hopper-badsig"}, "--no-rim"), fault.ExitRefused, result.Skip},
		"a board without RIMs":          {args(board, "--no-rim", "--gpus", "8"), fault.ExitPolicy, result.Skip},
		"a board under a policy":        {args(board, "--no-rim", "--gpus", "8", "--policy", policy), fault.ExitOK, result.Skip},
		"a board less a switch":         {args(board[:11], "--no-rim", "--gpus", "8", "--policy", policy), fault.ExitRefused, result.Skip},
		"a board less a GPU":            {args(board[1:], "--no-rim", "--policy", policy), fault.ExitRefused, result.Skip},
		"a board with a GPU twice":      {args(append(append([]string{}, board[1:]...), board[1]), "--no-rim", "--policy", policy), fault.ExitRefused, result.Skip},
		"a board with a GPU of another": {args(append(append([]string{}, board[1:]...), google), "--no-rim", "--policy", policy), fault.ExitRefused, result.Skip},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runHere(t, c.args...)
			var rep gpuReport
			if err := json.Unmarshal([]byte(stdout), &rep); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if code != c.exit || rep.Accepted != (c.exit == fault.ExitOK) {
				t.Errorf("exit code %d, want %d; accepted %v\n%s", code, c.exit, rep.Accepted, stderr)
			}
			for _, d := range rep.Devices {
				if got := d.Check("measurements").Status; got != c.measured {
					t.Errorf("%s: measurements %q, want %q", d.PDI, got, c.measured)
				}
			}
		})
	}
}
