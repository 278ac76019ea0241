package platform_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/attest"
	"cocoon/enclave/keys"
	"cocoon/enclave/platform"
	"cocoon/enclave/seal/sgx"
	"cocoon/enclave/sev"
	"cocoon/enclave/tdx"
	"cocoon/enclave/teetest"
	"cocoon/enclave/tsm"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/snptest"
	"cocoon/verifier/testfleet"
)

var now = snptest.Now

// made once: its authorities' RSA keys sign a lot.
var made = sync.OnceValues(func() (*testfleet.Fleet, error) { return testfleet.New("platform") })

func fleet(t *testing.T) *testfleet.Fleet {
	t.Helper()
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newTD(t *testing.T) *teetest.TD {
	t.Helper()
	m, err := teetest.NewTD(fleet(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newGuest(t *testing.T) *teetest.Guest {
	t.Helper()
	m, err := teetest.NewGuest(fleet(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t *testing.T, k platform.Kind, s platform.Sources) platform.Platform {
	t.Helper()
	p, err := platform.Open(k, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// boot measures as the supervisor does.
func boot(p platform.Platform, c *evidence.Config) error {
	h, err := c.Hash()
	if err != nil {
		return err
	}
	if err := p.Launched(context.Background(), h); err != nil {
		return err
	}
	events, err := evidence.ConfigEvents(c)
	if err != nil {
		return err
	}
	if err := p.Measure(events...); err != nil {
		return err
	}
	return p.Measure(evidence.LatchEvent())
}

// bundle collects the evidence of a machine as the supervisor does, and reads
// it back from its bytes.
func bundle(t *testing.T, p platform.Platform, c *evidence.Config, challenge digest.SHA256) *evidence.Evidence {
	t.Helper()
	k, err := keys.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	col := &attest.Collector{Identity: attest.Identity{Config: c, SPKI: k.SPKI, ReceiptKey: k.ReceiptPublic()}, Provider: p, GPUs: attest.NoGPUs{}, Queue: &attest.Queue{}}
	ev, err := col.Collect(t.Context(), []digest.SHA256{challenge})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if ev, err = evidence.Parse(doc); err != nil {
		t.Fatal(err)
	}
	return ev
}

// judge appraises evidence as a verifier does that trusts the fleet's test
// roots.
func judge(t *testing.T, ev *evidence.Evidence, challenge digest.SHA256) *result.Result {
	t.Helper()
	f := fleet(t)
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read(env, f.Policy().Manifests.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return appraise.Appraise(ev, &appraise.Options{Policy: f.Policy(), Manifests: []*manifest.Verified{m}, Now: now, Challenges: []digest.SHA256{challenge},
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}})})
}

func failed(r *result.Result) []string {
	var out []string
	for _, c := range r.Failed() {
		out = append(out, c.ID)
	}
	slices.Sort(out)
	return out
}

// TestEvidenceOfEachKindIsAccepted goes from the kernel's interfaces to a
// verdict.
func TestEvidenceOfEachKindIsAccepted(t *testing.T) {
	challenge := digest.Sum256([]byte("challenge"))
	t.Run("tdx", func(t *testing.T) {
		m := newTD(t)
		s := m.Sources()
		p := open(t, platform.TDX, s)
		if err := boot(p, &m.Config); err != nil {
			t.Fatal(err)
		}
		ev := bundle(t, p, &m.Config, challenge)
		ev.Collateral = m.Collateral // a verifier would have fetched it
		if r := judge(t, ev, challenge); !r.Accepted || r.TrustClass != policy.ClassTest {
			t.Errorf("class %s, failed %v", r.TrustClass, r.Failed())
		}
		if n := teetest.Entries(s); n != 0 {
			t.Errorf("%d requests are left in configfs", n)
		}
	})
	t.Run("snp", func(t *testing.T) {
		m := newGuest(t)
		s := m.Sources()
		p := open(t, platform.SNP, s)
		if err := boot(p, &m.Config); err != nil {
			t.Fatal(err)
		}
		ev := bundle(t, p, &m.Config, challenge)
		if r := judge(t, ev, challenge); !r.Accepted || r.TrustClass != policy.ClassTest {
			t.Errorf("class %s, failed %v", r.TrustClass, r.Failed())
		}
		if n := teetest.Entries(s); n != 0 {
			t.Errorf("%d requests are left in configfs", n)
		}
	})
}

// TestWhatARefusedMachineShows holds evidence of machines in which one thing
// is wrong against the same verifier.
func TestWhatARefusedMachineShows(t *testing.T) {
	challenge := digest.Sum256([]byte("challenge"))
	td := func(change func(*teetest.TD)) func(*testing.T) *evidence.Evidence {
		return func(t *testing.T) *evidence.Evidence {
			m := newTD(t)
			change(m)
			p := open(t, platform.TDX, m.Sources())
			if err := boot(p, &m.Config); err != nil {
				t.Fatal(err)
			}
			ev := bundle(t, p, &m.Config, challenge)
			ev.Collateral = m.Collateral
			return ev
		}
	}
	guest := func(change func(*teetest.Guest)) func(*testing.T) *evidence.Evidence {
		return func(t *testing.T) *evidence.Evidence {
			m := newGuest(t)
			change(m)
			p := open(t, platform.SNP, m.Sources())
			if err := boot(p, &m.Config); err != nil {
				t.Fatal(err)
			}
			return bundle(t, p, &m.Config, challenge)
		}
	}
	for name, c := range map[string]struct {
		show func(*testing.T) *evidence.Evidence
		want string
	}{
		"a TD under debug":               {td(func(m *teetest.TD) { m.Attributes[0] |= 1 }), "policy.tdx.debug"},
		"a TD with another command line": {td(func(m *teetest.TD) { m.RTMR[2][0] ^= 1 }), "rtmr.2"},
		"an SNP guest under debug":       {guest(func(m *teetest.Guest) { m.Policy |= 1 << 19 }), "policy.snp.debug"},
		"an SNP guest of another image":  {guest(func(m *teetest.Guest) { m.Measurement[0] ^= 1 }), "image.launch_digest"},
		"a TD whose config names SNP": {td(func(m *teetest.TD) {
			c := m.Config
			c.Platform = evidence.PlatformSNP
			if err := m.Launch(c); err != nil {
				panic(err)
			}
		}), "config.platform"},
	} {
		t.Run(name, func(t *testing.T) {
			r := judge(t, c.show(t), challenge)
			if r.Accepted || !slices.Contains(failed(r), c.want) {
				t.Errorf("accepted %v, failed %v, want %s", r.Accepted, failed(r), c.want)
			}
		})
	}
}

func TestWithoutCertificatesTheVerifierIsLeftToFetchThem(t *testing.T) {
	m := newGuest(t)
	m.NoCerts = true
	p := open(t, platform.SNP, m.Sources())
	if ev := bundle(t, p, &m.Config, digest.Sum256([]byte("c"))); len(ev.CPU.CertChain) != 0 || len(ev.CPU.Quote) != 1184 {
		t.Errorf("%d certificates, report of %d bytes", len(ev.CPU.CertChain), len(ev.CPU.Quote))
	}
}

func TestAMachineLaunchedForAnotherConfigIsRefused(t *testing.T) {
	t.Run("tdx", func(t *testing.T) {
		m := newTD(t)
		m.MRConfigID[47] = 1 // behind the hash
		if err := boot(open(t, platform.TDX, m.Sources()), &m.Config); !fault.Has(err, tdx.CodeConfig) {
			t.Error(err)
		}
	})
	t.Run("snp", func(t *testing.T) {
		m := newGuest(t)
		m.HostData[0] ^= 1
		if err := boot(open(t, platform.SNP, m.Sources()), &m.Config); !fault.Has(err, sev.CodeConfig) {
			t.Error(err)
		}
	})
}

func TestRegistersThatAreNotAsTheyShouldBe(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*teetest.TD, *platform.Sources)
		code   string
	}{
		"extended by something before": {func(m *teetest.TD, _ *platform.Sources) { m.RTMR[3][0] = 1 }, tdx.CodeUsed},
		"the kernel extends none":      {func(m *teetest.TD, _ *platform.Sources) { m.NoRTMR = true }, tdx.CodeRegisters},
		"extending has no effect":      {func(_ *teetest.TD, s *platform.Sources) { s.RTMR = idle{} }, tdx.CodeDiffers},
		"the device is gone":           {func(_ *teetest.TD, s *platform.Sources) { s.TDX = tdx.Linux{Path: "/nowhere"} }, tdx.CodeReport},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTD(t)
			s := m.Sources()
			c.change(m, &s)
			if err := boot(open(t, platform.TDX, s), &m.Config); !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

type idle struct{}

func (idle) Extend(int, [48]byte) error { return nil }

func TestQuotesAreAskedForAgainAndWithAnEnd(t *testing.T) {
	claims := &evidence.Claims{}
	for name, c := range map[string]struct {
		stolen  int
		failing error
		code    string // empty: a quote
	}{
		"another writer came between, thrice": {3, nil, ""},
		"another writer always comes between": {1000, nil, tdx.CodeQuote},
		"a signal, always":                    {0, unix.EINTR, tdx.CodeQuote},
		"the kernel's own timeout":            {0, unix.ETIMEDOUT, tdx.CodeQGS},
		"the hypervisor refuses":              {0, unix.EIO, tdx.CodeQGS},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newTD(t)
				m.Stolen, m.Failing = c.stolen, c.failing
				s := m.Sources()
				begin := time.Now()
				_, err := open(t, platform.TDX, s).CPU(t.Context(), claims)
				if (c.code == "") != (err == nil) || c.code != "" && !fault.Has(err, c.code) {
					t.Errorf("got %v, want %q", err, c.code)
				}
				if d := time.Since(begin); d > 10*time.Second {
					t.Errorf("it took %s", d)
				}
				if n := teetest.Entries(s); n != 0 {
					t.Errorf("%d requests are left", n)
				}
			})
		})
	}
	t.Run("the caller gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newGuest(t)
			m.Stolen = 1000
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := open(t, platform.SNP, m.Sources()).CPU(ctx, claims); !errors.Is(err, context.DeadlineExceeded) || !fault.Has(err, sev.CodeReport) {
				t.Error(err)
			}
		})
	})
}

// TestAHostWithoutAQuotingServiceIsNamed has three ways to have none.
func TestAHostWithoutAQuotingServiceIsNamed(t *testing.T) {
	refused := func(context.Context) (net.Conn, error) { return nil, unix.ECONNREFUSED }
	for name, c := range map[string]struct {
		change func(*teetest.TD)
		dial   tdx.Dial
	}{
		"an empty quote":                       {func(m *teetest.TD) { m.NoService = true }, nil},
		"an empty quote, and nothing on vsock": {func(m *teetest.TD) { m.NoService = true }, refused},
		"no configfs-tsm, and no vsock":        {func(m *teetest.TD) { m.NoTSM = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := newTD(t)
			c.change(m)
			s := m.Sources()
			s.QGS = c.dial
			_, err := open(t, platform.TDX, s).CPU(t.Context(), &evidence.Claims{})
			if !fault.Has(err, tdx.CodeQGS) || fault.All(err)[0].Remedy == "" {
				t.Error(err)
			}
		})
	}
}

// qgs is a quoting service on vsock, as Intel's is.
func qgs(t *testing.T, m *teetest.TD, answer func(quote []byte) []byte) tdx.Dial {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			req := make([]byte, 4+16+8+tdx.ReportSize)
			if _, err := io.ReadFull(theirs, req); err != nil {
				t.Error(err)
				return
			}
			if n := binary.BigEndian.Uint32(req); int(n) != len(req)-4 {
				t.Errorf("a request of %d bytes in a frame of %d", n, len(req)-4)
			}
			r, err := tdx.ParseReport(req[28:])
			if err != nil {
				t.Error(err)
				return
			}
			q, err := m.Quote(r.ReportData[:])
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = theirs.Write(answer(q)) // the guest may have hung up
		}()
		return ours, nil
	}
}

func good(q []byte) []byte {
	le := binary.LittleEndian
	b := binary.BigEndian.AppendUint32(nil, uint32(24+len(q)))
	b = le.AppendUint16(b, 1)
	b = le.AppendUint16(b, 1)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, uint32(24+len(q)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, 0)
	return append(le.AppendUint32(b, uint32(len(q))), q...)
}

func TestWithoutConfigfsTheServiceIsAskedOverVsock(t *testing.T) {
	challenge := digest.Sum256([]byte("challenge"))
	m := newTD(t)
	m.NoTSM = true
	s := m.Sources()
	s.QGS = qgs(t, m, good)
	p := open(t, platform.TDX, s)
	if err := boot(p, &m.Config); err != nil {
		t.Fatal(err)
	}
	ev := bundle(t, p, &m.Config, challenge)
	ev.Collateral = m.Collateral
	if r := judge(t, ev, challenge); !r.Accepted {
		t.Errorf("failed %v", r.Failed())
	}
	for name, answer := range map[string]func([]byte) []byte{
		"hangs up":                   func([]byte) []byte { return nil },
		"too long":                   func([]byte) []byte { return []byte{0x7f, 0, 0, 0} },
		"too short":                  func([]byte) []byte { return []byte{0, 0, 0, 3, 0, 0, 0} },
		"an error":                   func(q []byte) []byte { b := good(q); b[16] = 1; return b },
		"another message":            func(q []byte) []byte { b := good(q); b[8] = 0; return b },
		"lengths that do not add up": func(q []byte) []byte { b := good(q); b[20]++; return b },
		"cut short":                  func(q []byte) []byte { return good(q)[:100] },
	} {
		t.Run(name, func(t *testing.T) {
			s.QGS = qgs(t, m, answer)
			if _, err := open(t, platform.TDX, s).CPU(t.Context(), &evidence.Claims{}); !fault.Has(err, tdx.CodeQGS) {
				t.Error(err)
			}
		})
	}
}

func TestWithoutConfigfsTheSNPDeviceIsAsked(t *testing.T) {
	challenge := digest.Sum256([]byte("challenge"))
	m := newGuest(t)
	m.NoTSM = true
	p := open(t, platform.SNP, m.Sources())
	if r := judge(t, bundle(t, p, &m.Config, challenge), challenge); !r.Accepted {
		t.Errorf("failed %v", r.Failed())
	}
	m.Failing = unix.EIO
	if _, err := p.CPU(t.Context(), &evidence.Claims{}); !fault.Has(err, sev.CodeReport) || !errors.Is(err, tsm.ErrAbsent) {
		t.Error(err)
	}
}

func TestAMachineUnderDebugHasNoSealer(t *testing.T) {
	m := newTD(t)
	m.Attributes[0] |= 1
	if _, err := platform.Sealer(t.Context(), open(t, platform.TDX, m.Sources()), platform.Sealing{Config: &m.Config}); !fault.Has(err, platform.CodeDebug) {
		t.Errorf("tdx: %v", err)
	}
	g := newGuest(t)
	g.Policy |= 1 << 19
	if _, err := platform.Sealer(t.Context(), open(t, platform.SNP, g.Sources()), platform.Sealing{Config: &g.Config}); !fault.Has(err, platform.CodeDebug) {
		t.Errorf("snp: %v", err)
	}
	g.Failing = unix.EIO
	if _, err := platform.Sealer(t.Context(), open(t, platform.SNP, g.Sources()), platform.Sealing{Config: &g.Config}); !fault.Has(err, sev.CodeReport) {
		t.Errorf("a machine that does not say: %v", err)
	}
}

// TestWhichMachineGetsWhichSealer is the table of the decision.
func TestWhichMachineGetsWhichSealer(t *testing.T) {
	m, g := newTD(t), newGuest(t)
	with := m.Config
	with.Sealer = &evidence.SealingEnclave{Signer: digest.SHA256{1}, Product: 1, MinSVN: 1}
	dial := func(context.Context) (net.Conn, error) { return nil, unix.ECONNREFUSED }
	for name, c := range map[string]struct {
		p    platform.Platform
		s    platform.Sealing
		want string // name of the sealer, or a fault's code
	}{
		"an SNP guest":                           {open(t, platform.SNP, g.Sources()), platform.Sealing{Config: &g.Config}, sev.SealerName},
		"a TD with an enclave":                   {open(t, platform.TDX, m.Sources()), platform.Sealing{Config: &with, Enclave: dial}, sgx.SealerName},
		"a TD whose config names none":           {open(t, platform.TDX, m.Sources()), platform.Sealing{Config: &m.Config, Enclave: dial}, platform.CodeNoSeal},
		"a TD whose operator does not say where": {open(t, platform.TDX, m.Sources()), platform.Sealing{Config: &with}, platform.CodeNoSeal},
	} {
		s, err := platform.Sealer(t.Context(), c.p, c.s)
		if err == nil && s.Name() != c.want || err != nil && !fault.Has(err, c.want) {
			t.Errorf("%s: %v, %v, want %s", name, s, err, c.want)
		}
	}
}
