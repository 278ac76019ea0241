package tdx_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	peerabi "github.com/google/go-tdx-guest/abi"

	"cocoon/verifier/dcap"
	"cocoon/verifier/pck"
	"cocoon/verifier/tcb"
)

var update = flag.Bool("update", false, "rewrite golden files")

const comparisonFile = "../../docs/dcap-comparison.md"

const comparisonHead = `# TDX and SGX quotes: this verifier and two others

Real quotes with collateral that Intel signed, each pair verified at a time at
which all parts are valid. *Expected* is the verdict of the algorithm of
Intel's Quote Verification Library. *Cocoon* and *go-tdx-guest* were run to
write this table; the answers of dcap-qvl (JavaScript, 0.3.9) were recorded.
go-tdx-guest v0.3.1 knows no statuses: it accepts or refuses, and is right
where it accepts UpToDate and refuses everything else; it does not parse SGX
quotes or version 5. An answer in bold is not the expected verdict;
dcap-qvl's errors about debug mode and service TDs are policy that it applies
before it gives one.

` + "`go test ./verifier/tdx -run Comparison -update`" + ` writes this file.

| quote | collateral | expected | Cocoon | go-tdx-guest v0.3.1 | dcap-qvl 0.3.9 |
|---|---|---|---|---|---|
`

// TestComparisonWithOtherVerifiers runs this verifier and go-tdx-guest over
// every real case, puts dcap-qvl's recorded answers beside them, prints the
// table, and compares it with the one in the documentation.
func TestComparisonWithOtherVerifiers(t *testing.T) {
	dir, quotes := loadVectors(t)
	var out bytes.Buffer
	out.WriteString(comparisonHead)
	total := 0
	right := [3]int{}
	for _, q := range quotes {
		raw := readFile(t, dir, q.Quote)
		for _, c := range q.Cases {
			total++
			want := c.want()
			coll := readCollateral(t, dir, c.Collateral)
			at := time.Unix(c.VerifyAt, 0)
			res, err := verifyKind(t, q.Kind, raw, &dcap.Options{RawCollateral: coll, Now: at})
			if res == nil {
				t.Fatal(err)
			}
			peerAnswer := answerOfPeer(raw, peerVerifier(t, raw, coll, at, pck.IntelRoots().PEM()))
			answers := [3]string{string(res.TCB.Status), peerAnswer, answerOfQVL(c.DCAPQVL)}
			verdicts := [3]bool{
				res.TCB.Status == want,
				(peerAnswer == "accepts") == (want == tcb.UpToDate) && peerAnswer != "unsupported",
				answers[2] == string(want) || (want == tcb.NotSupported && strings.Contains(answers[2], "No matching")),
			}
			for i, ok := range verdicts {
				if ok {
					right[i]++
				} else if answers[i] != "unsupported" {
					answers[i] = "**" + answers[i] + "**"
				}
			}
			fmt.Fprintf(&out, "| %s | evaluation %d, %s | %s | %s |\n", q.Name, c.TCBEval, at.UTC().Format(time.DateOnly), want, strings.Join(answers[:], " | "))
		}
	}
	fmt.Fprintf(&out, "\nRight in %d cases: Cocoon %d, go-tdx-guest %d, dcap-qvl %d.\n", total, right[0], right[1], right[2])
	t.Log("\n" + out.String())
	if right[0] != total {
		t.Errorf("%d of %d cases as expected", right[0], total)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(comparisonFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(comparisonFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(comparisonFile)
	if err != nil {
		t.Fatalf("reading the table: %v; write it with -update", err)
	}
	if diff := cmp.Diff(string(golden), out.String()); diff != "" {
		t.Errorf("table in docs differs; write it with -update:\n%s", diff)
	}
}

// answerOfPeer runs go-tdx-guest, which panics on some input.
func answerOfPeer(raw []byte, verify func() error) (answer string) {
	defer func() {
		if recover() != nil {
			answer = "panics"
		}
	}()
	if _, err := peerabi.QuoteToProto(raw); err != nil {
		return "unsupported"
	}
	switch err := verify(); {
	case err == nil:
		return "accepts"
	case strings.Contains(err.Error(), "FMSPC"):
		return "refuses (FMSPC in another case)"
	default:
		return "refuses"
	}
}

// answerOfQVL shortens a recorded answer of dcap-qvl.
func answerOfQVL(s string) string {
	if msg, ok := strings.CutPrefix(s, "ERR "); ok {
		return "error: " + msg
	}
	s, _, _ = strings.Cut(s, " ")
	return s
}
