package worker

import (
	"context"
	"net"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/enclave/boot"
	"cocoon/enclave/datadisk"
	"cocoon/enclave/handover"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise/tee"
)

// handoverPause is between attempts to reach whoever carries a hand-over, and
// handoverFor how long a machine that takes over waits for all of it.
const (
	handoverPause = time.Minute
	handoverFor   = 10 * time.Minute
)

// takeover is the stage of a machine that was started to take over: it has no
// disk yet, proves itself to the machine that has it, and ends.
func (w *Worker) takeover() []boot.Stage {
	if !w.operator.Takeover {
		return nil
	}
	return []boot.Stage{{Name: "takeover", Timeout: handoverFor, Run: func(ctx context.Context) error {
		w.collector = w.newCollector()
		if err := w.openChain(ctx); err != nil {
			return err
		}
		s, err := w.sealer(ctx)
		if err != nil {
			return err
		}
		t := &handover.Taker{Party: w.party()}
		err = patiently(ctx, func(ctx context.Context) error {
			conn, err := w.dialHandover(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			err = t.Serve(ctx, conn, func(key []byte) ([]byte, error) { return datadisk.NewTicket(key, s) })
			if err != nil && len(fault.All(err)) == 0 {
				err = handoverAway(err) // hung up before the end
			}
			return err
		})
		if err != nil {
			return err
		}
		return boot.ErrDone // the host has the ticket; the boot that has the disk comes next
	}}}
}

// giveOver answers those who carry a hand-over, as long as this machine has a
// data disk and somebody to ask.
func (w *Worker) giveOver(background context.Context) {
	if w.dataDir == "" || w.operator.Handover == "" || w.config.Registry == "" {
		return
	}
	g := &handover.Giver{Party: w.party(), Key: func() ([]byte, error) {
		s, err := w.sealer(background)
		if err != nil {
			return nil, err
		}
		return datadisk.Key(w.disks(), s)
	}}
	w.goBackground(func() {
		for background.Err() == nil {
			conn, err := w.dialHandover(background)
			if err == nil {
				stop := context.AfterFunc(background, func() { conn.Close() })
				err = g.Serve(background, conn)
				stop()
				conn.Close()
			}
			if background.Err() == nil {
				w.log.Debug("no hand-over", "err", err)
			}
			select {
			case <-background.Done():
			case <-time.After(handoverPause):
			}
		}
	})
}

func (w *Worker) dialHandover(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", w.operator.Handover)
	if err != nil {
		return nil, handoverAway(err)
	}
	return conn, nil
}

func handoverAway(err error) error {
	return fault.New(fault.ExitNetwork, "handover.away", "start the hand-over on the host, at the address in operator.json", "reaching the hand-over: %w", err)
}

// party is this machine in a hand-over: it believes the makers' roots and the
// built-in policy of production.
func (w *Worker) party() handover.Party {
	return handover.Party{
		Config: w.config, Payout: w.operator.Payout, Receipt: w.keys.Receipt,
		CPUs: tee.CPUs(tee.Options{}), GPUs: gpuAppraiser(),
		Registry: func(ctx context.Context) (*registry.State, *chain.State, error) {
			return w.contracts.Registry(ctx, w.registry)
		},
		Evidence: func(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
			ev, err := w.collector.Collect(ctx, []digest.SHA256{challenge})
			if err != nil {
				return nil, err
			}
			return ev.Marshal()
		},
	}
}
