package appraise

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

var errNoProof = errors.New("none")

// openLogged verifies the proof that came with a manifest, under the keys of the
// policy's logs (C2SP tlog-proof; RFC 9162 section 2.1.3.2). It is done once,
// where manifests are opened: nothing in it depends on the evidence.
func openLogged(want *policy.Log, m digest.SHA256, proof []byte) *manifest.Logged {
	if len(proof) == 0 {
		return &manifest.Logged{Err: errNoProof}
	}
	p, err := log.ParseInclusion(proof)
	if err != nil {
		return &manifest.Logged{Err: err}
	}
	var errs []error
	for _, k := range want.Keys {
		c, err := p.Verify(m, k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l := &manifest.Logged{Log: k, Text: fmt.Sprintf("entry %d of %d in %s", p.Index, c.Size, k.ID())}
		for _, w := range want.Witnesses {
			if _, err := log.CheckCosignature(c.Raw, w); err == nil {
				l.Witnesses = append(l.Witnesses, w)
			}
		}
		if n := len(want.Witnesses); n > 0 {
			l.Text = fmt.Sprintf("%s, cosigned by %d of %d witnesses", l.Text, len(l.Witnesses), n)
		}
		return l
	}
	return &manifest.Logged{Err: errors.Join(errs...)}
}

// checkLogged checks that a log of the policy's has the manifest. What was
// found when it was opened may be of another policy: it counts as far as it
// is of this one's logs and witnesses.
func (a *appraisal) checkLogged(m *manifest.Verified) {
	want := a.o.Policy.Manifests.Log
	if want == nil {
		return
	}
	if inLog(want, m.Logged) {
		a.pass(result.SubImage, "manifest.logged", m.Logged.Text)
		return
	}
	reason, actual := notLogged(want, m.Logged)
	a.fail(result.SubImage, "manifest.logged", loggedText(want), actual, reason,
		"append the manifest to the log (cocoon log append), and put the proof beside it (cocoon log prove)")
}

// CheckLogged returns why a manifest fails the check manifest.logged under a
// policy, nil if it passes or the policy names no log.
func CheckLogged(p *policy.Policy, m *manifest.Verified) error {
	want := p.Manifests.Log
	if want == nil || inLog(want, m.Logged) {
		return nil
	}
	reason, actual := notLogged(want, m.Logged)
	return fmt.Errorf("%s: %s", reason, actual)
}

func inLog(want *policy.Log, l *manifest.Logged) bool {
	return l != nil && l.Err == nil && hasLog(want.Keys, &l.Log) && cosigners(want.Witnesses, l.Witnesses) >= want.Threshold
}

// notLogged says what is wrong with what is not inLog, and what there is.
func notLogged(want *policy.Log, l *manifest.Logged) (reason, actual string) {
	reason, actual = "no proof shows that a log of the policy's has the manifest", errNoProof.Error()
	switch {
	case l == nil:
	case l.Err != nil:
		actual = oneLine(l.Err)
	case !hasLog(want.Keys, &l.Log):
		actual = l.Text
	default:
		reason, actual = "too few witnesses have cosigned the log's checkpoint", l.Text
	}
	return reason, actual
}

func hasLog(keys []log.Key, k *log.Key) bool {
	for i := range keys {
		if keys[i].Origin == k.Origin && keys[i].Public.Equal(k.Public) {
			return true
		}
	}
	return false
}

func cosigners(want, have []string) (n int) {
	for _, w := range have {
		if slices.Contains(want, w) {
			n++
		}
	}
	return n
}

func loggedText(l *policy.Log) string {
	var ids []string
	for _, k := range l.Keys {
		ids = append(ids, k.ID())
	}
	s := "a proof that the manifest is in " + strings.Join(ids, " or ")
	if l.Threshold > 0 {
		s += fmt.Sprintf(", cosigned by %d of %d witnesses", l.Threshold, len(l.Witnesses))
	}
	return s
}
