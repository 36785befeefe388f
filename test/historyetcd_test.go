package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/internal/testserver"
)

// memberFault breaks etcd, and returns what ends that; nil if nothing is left to
// end.
type memberFault struct {
	name string
	do   func(t *testing.T, c *etcdtest.Cluster) (end func())
}

var memberFaults = []memberFault{
	{"leader killed", func(t *testing.T, c *etcdtest.Cluster) func() { return killed(t, c.Leader(t)) }},
	{"follower killed", func(t *testing.T, c *etcdtest.Cluster) func() { return killed(t, c.Follower(t)) }},
	{"leader paused", func(t *testing.T, c *etcdtest.Cluster) func() { return paused(t, c.Leader(t)) }},
	{"follower paused", func(t *testing.T, c *etcdtest.Cluster) func() { return paused(t, c.Follower(t)) }},
	{"leader moved", func(t *testing.T, c *etcdtest.Cluster) func() { c.MoveLeader(t); return nil }},
	{"slow between members", func(t *testing.T, c *etcdtest.Cluster) func() {
		for i, m := range c.Members {
			m.Peers.Delay(time.Duration(25+50*i) * time.Millisecond)
		}
		return func() { healed(c) }
	}},
	{"leader not reached by the others", func(t *testing.T, c *etcdtest.Cluster) func() {
		c.Leader(t).Peers.Blackhole()
		return func() { healed(c) }
	}},
	{"follower not reached by the others", func(t *testing.T, c *etcdtest.Cluster) func() {
		c.Follower(t).Peers.Blackhole()
		return func() { healed(c) }
	}},
	{"compacted", func(t *testing.T, c *etcdtest.Cluster) func() { c.Compact(t); return nil }},
	{"quorum lost", func(t *testing.T, c *etcdtest.Cluster) func() {
		first, second := c.Leader(t), c.Follower(t)
		first.Kill(t)
		second.Kill(t)
		return func() {
			first.Begin(t) // it is not ready without the other
			second.Restart(t)
		}
	}},
}

func healed(c *etcdtest.Cluster) {
	for _, m := range c.Members {
		m.Peers.Heal()
	}
}

func killed(t *testing.T, m *etcdtest.Member) func() {
	m.Kill(t)
	return func() { m.Restart(t) }
}

func paused(t *testing.T, m *etcdtest.Member) func() {
	m.Pause(t)
	return func() { m.Resume(t) }
}

// newNodes makes servers on an etcd. Each has a network of its own to each member.
func (h *history) newNodes(c *etcdtest.Cluster, n int) (networks [][]*testserver.Proxy) {
	h.t.Helper()
	keyFile := newKeyFile(h.t)
	for range n {
		var proxies []*testserver.Proxy
		var endpoints []string
		for _, m := range c.Members {
			p := testserver.NewProxy(h.t, m.URL())
			proxies = append(proxies, p)
			endpoints = append(endpoints, p.Addr)
		}
		h.add(h.t.TempDir(), fmt.Sprintf("{max_staleness: 5s, etcd: {endpoints: [%s], ca_file: %s, cert_file: %s, key_file: %s, request_timeout: 1s}}",
			strings.Join(endpoints, ", "), c.CA.File, c.CertFile, c.KeyFile), keyFile)
		networks = append(networks, proxies)
	}
	return networks
}

// nodeFault breaks one server, or its network. What it does takes a moment, or
// lasts until end.
func (h *history) nodeFault(s *site, network []*testserver.Proxy, etcdIsWell bool) (name string, end func()) {
	heal := func() {
		for _, p := range network {
			p.Heal()
		}
	}
	switch n := h.rnd.IntN(6); {
	case n < 2 && etcdIsWell: // it cannot start without
		h.kill(s, time.Duration(h.rnd.IntN(300))*time.Millisecond)
		return "killed", nil
	case n < 3:
		h.pause(s, time.Duration(h.rnd.IntN(2500))*time.Millisecond)
		return "paused", nil
	case n < 4:
		for _, p := range network {
			p.Blackhole()
		}
		return "cut off from all members", heal
	case n < 5:
		network[h.rnd.IntN(len(network))].Blackhole()
		return "cut off from one member", heal
	default:
		for _, p := range network {
			p.Delay(time.Duration(20+h.rnd.IntN(100)) * time.Millisecond)
		}
		return "slow network", heal
	}
}

// TestHistoryEtcd breaks servers, their network and a real etcd of three members,
// some of it at once, under load, and checks all that clients saw [F18, F19,
// F20, F21, F22, F23, F24, F25, F28, F57, V1-V10].
func TestHistoryEtcd(t *testing.T) {
	c := etcdtest.Start(t, 3)
	h := newHistory(t, 5*time.Second)
	networks := h.newNodes(c, 3)
	h.run(8)
	var endMember, endNode func()
	end := func(f *func()) {
		if *f != nil {
			(*f)()
			*f = nil
		}
	}
	for range faultsOf(t, 12) {
		time.Sleep(time.Duration(100+h.rnd.IntN(900)) * time.Millisecond)
		// One of two places, at random: what is broken there heals, or else something
		// breaks. So all four combinations of broken and well are seen.
		if h.rnd.IntN(2) == 0 {
			if endMember != nil {
				end(&endMember)
				continue
			}
			f := memberFaults[h.rnd.IntN(len(memberFaults))]
			t.Logf("etcd: %s", f.name)
			endMember = f.do(t, c)
			continue
		}
		if endNode != nil {
			end(&endNode)
			continue
		}
		i := h.rnd.IntN(len(h.sites))
		var name string
		name, endNode = h.nodeFault(h.sites[i], networks[i], endMember == nil)
		t.Logf("server %d: %s", i, name)
	}
	end(&endMember)
	end(&endNode)
	h.end()
}

// TestHistoryEtcdKills kills two servers on one etcd in turn under load [F28].
func TestHistoryEtcdKills(t *testing.T) {
	c := etcdtest.Start(t, 1)
	h := newHistory(t, 2*time.Second) // etcd is well: a second is promised, and the machine is busy
	h.newNodes(c, 2)
	h.run(6)
	for i := range faultsOf(t, 10) {
		time.Sleep(time.Duration(50+h.rnd.IntN(300)) * time.Millisecond)
		h.kill(h.sites[i%2], 0)
	}
	h.end()
}
