package ledger

import (
	"context"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
)

// DeployRegistry deploys a registry with this state and fund nanoton for its
// storage.
func (l *Ledger) DeployRegistry(ctx context.Context, w chain.Sender, s *registry.State, fund coin.Nano) (toncell.Address, error) {
	body, err := registry.Fund(0)
	if err != nil {
		return toncell.Address{}, err
	}
	addr, _, err := l.deploy(ctx, w, "deploying the registry", s, fund, body)
	return addr, err
}

// NewOrder returns an order with these entries for the registry at addr, as
// its proven state wants it: with the next number, and waiting the time lock
// if an entry widens trust. It may be sent until validFor from now.
func (l *Ledger) NewOrder(ctx context.Context, addr toncell.Address, validFor time.Duration, entries ...registry.Entry) (*registry.Order, *registry.State, error) {
	s, st, err := l.Registry(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	o := &registry.Order{
		GlobalID: st.GlobalID, Registry: addr, Number: s.NextOrder, Entries: entries,
		ValidUntil: time.Unix(int64(st.Utime), 0).Add(validFor).UTC(),
	}
	o.Later = !o.Narrows(s)
	o.Schedule = o.Later && o.Schedulable(s)
	return o, s, nil
}

// Propose sends an order with its owners' signatures: one that narrows trust
// is executed by that, another waits from now.
func (l *Ledger) Propose(ctx context.Context, w chain.Sender, o *registry.Order, sigs []registry.OwnerSignature) (*Tx, error) {
	body, err := registry.Propose(o.Number, o, sigs)
	if err != nil {
		return nil, err
	}
	value := orderValue(o)
	if o.Schedule {
		s, _, err := l.Registry(ctx, o.Registry)
		if err != nil {
			return nil, err
		}
		value = coin.Nano(registry.ScheduleValue(s, o, len(sigs)))
	}
	return l.toRegistry(ctx, w, o.Registry, "sending the order", value, body)
}

// ExecuteOrder executes a pending order whose time has come. One whose time
// is over is dropped by it.
func (l *Ledger) ExecuteOrder(ctx context.Context, w chain.Sender, addr toncell.Address, number uint64) (*Tx, error) {
	s, _, err := l.Registry(ctx, addr)
	if err != nil {
		return nil, err
	}
	value := coin.Nano(registry.MessageValue)
	if p, ok := s.Pending[number]; ok {
		if o, err := registry.ReadOrder(p.Order); err == nil {
			value = orderValue(o)
		}
	}
	body, err := registry.Execute(number, number)
	if err != nil {
		return nil, err
	}
	return l.toRegistry(ctx, w, addr, "executing the order", value, body)
}

// orderValue pays for an order's gas; what is not used comes back.
func orderValue(o *registry.Order) coin.Nano {
	return coin.Nano(registry.MessageValue + len(o.Entries)*registry.EntryValue)
}

// VetoOrder drops a pending order.
func (l *Ledger) VetoOrder(ctx context.Context, w chain.Sender, addr toncell.Address, number uint64, sigs []registry.OwnerSignature) (*Tx, error) {
	body, err := registry.Veto(number, number, sigs)
	if err != nil {
		return nil, err
	}
	return l.toRegistry(ctx, w, addr, "vetoing the order", registry.MessageValue, body)
}

// VetoScheduled takes a scheduled entry off its dictionary.
func (l *Ledger) VetoScheduled(ctx context.Context, w chain.Sender, addr toncell.Address, id registry.ID, sigs []registry.OwnerSignature) (*Tx, error) {
	body, err := registry.VetoScheduled(0, id, sigs)
	if err != nil {
		return nil, err
	}
	return l.toRegistry(ctx, w, addr, "vetoing the "+id.Kind.String(), registry.MessageValue, body)
}

// Tell sends any of the registry's messages (package registry) with what it
// is to leave there beside its gas, and waits until it was executed.
func (l *Ledger) Tell(ctx context.Context, w chain.Sender, addr toncell.Address, leave coin.Nano, body *cell.Cell) (*Tx, error) {
	return l.toRegistry(ctx, w, addr, "telling the registry", leave+registry.MessageValue, body)
}

func (l *Ledger) toRegistry(ctx context.Context, w chain.Sender, addr toncell.Address, what string, value coin.Nano, body *cell.Cell) (*Tx, error) {
	tx, _, err := l.call(ctx, w, what, message(addr, value, body))
	return tx, err
}
