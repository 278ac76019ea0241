package bundle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/collateral"
)

func sample() *collateral.Raw {
	sig := make([]byte, 64)
	for i := range sig {
		sig[i] = byte(i)
	}
	return &collateral.Raw{
		PCKCRLIssuerChain: []byte("chain one\n"), RootCACRL: []byte{0x30, 1, 2}, PCKCRL: []byte{0x30, 3, 4},
		TCBInfoIssuerChain: []byte("chain two\n"), TCBInfo: []byte(`{"id":"TDX"}`), TCBInfoSignature: sig,
		QEIdentityIssuerChain: []byte("chain three\n"), QEIdentity: []byte(`{"id":"TD_QE"}`), QEIdentitySignature: sig,
	}
}

func TestBundlesComeBackAsTheyWereWritten(t *testing.T) {
	want := sample()
	file := filepath.Join(t.TempDir(), "c.json")
	if err := WriteFile(file, want); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := WriteDir(dir, want); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir} {
		got, err := Read(path)
		if err != nil {
			t.Fatalf("Read(%s): %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s came back different:\n%s", path, diff)
		}
	}
}

func TestRealBundlesSurviveADirectory(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(vectors.Dir(t), "tdx", "*.collateral.json"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no collateral among the vectors: %v", err)
	}
	for _, name := range names {
		want, err := Read(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := WriteDir(dir, want); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s came back different:\n%s", name, diff)
		}
	}
}

func TestEveryMissingPartIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := WriteDir(dir, sample()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pck_crl.der", "qe_identity.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Read(dir)
	if fs := fault.All(err); len(fs) != 2 || fault.ExitCode(err) != fault.ExitParse {
		t.Errorf("got %v, want two faults that exit 5", err)
	}
}

func TestOversizedAndForeignFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := WriteDir(dir, sample()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"tcb_info.json":            make([]byte, collateral.MaxTCBInfo+1),
		"tcb_info_signature.hex":   []byte("not hex"),
		"pck_crl_issuer_chain.pem": {},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(path, old, 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(dir); !fault.Has(err, "dcap.collateral.parse") {
				t.Errorf("got %v, want dcap.collateral.parse", err)
			}
		})
	}
}
