package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// G-08: every method that is registered is in the authorization table, and
// nothing else is.
func TestEveryMethodHasAccess(t *testing.T) {
	f := newFixture(t)
	registered := map[string]bool{}
	for service := range f.server.grpc.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			name := "/" + service + "/" + string(methods.Get(i).Name())
			registered[name] = true
			a := accessTo[name]
			if a.who == nobody {
				t.Errorf("%s may be called by nobody", name)
			}
			if strings.Contains(name, "Admin") != (a.who == readers || a.who == writers) {
				t.Errorf("%s may be called by %v", name, a.who)
			}
		}
	}
	for name := range accessTo {
		if !registered[name] {
			t.Errorf("%s is in the table and not registered", name)
		}
	}
	// G-06: nothing that describes or debugs the server.
	if n := len(f.server.grpc.GetServiceInfo()); n != 5 {
		t.Errorf("%d services", n)
	}
	err := f.server.face.chain.run(t.Context(), "/sts.v1.New/Method", time.Second, func(context.Context) error { return nil })
	if status.Code(err) != codes.Internal {
		t.Errorf("a method without an entry: %v", err)
	}
}

// G-07, P-18: no admin method without the admin token, by no face.
func TestAdminNeedsToken(t *testing.T) {
	f := newFixture(t)
	for name, auth := range map[string][]string{
		"none": nil, "wrong": {"Bearer " + secretOf("wrong")}, "basic": {basicAuth("web", f.secret)},
		"two": {"Bearer " + f.admin, "Bearer " + f.admin}, "empty": {"Bearer "}, "bare": {f.admin},
	} {
		ctx := t.Context()
		for _, v := range auth {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		for method, a := range accessTo {
			if a.who == anyone {
				continue
			}
			err := f.conn.Invoke(ctx, method, &stsv1.ApplyRequest{}, &stsv1.ApplyResponse{})
			if got := answerOf(err); got.grpc != codes.Unauthenticated || got.code != sts.Unauthenticated {
				t.Errorf("%s: %s: %v", name, method, err)
			}
		}
		for _, r := range []struct{ method, path string }{
			{"GET", "/v1/resources"}, {"GET", "/v1/resources/Client/web"}, {"DELETE", "/v1/resources/Client/web"}, {"POST", "/v1/resources:apply"},
			{"GET", "/v1/keys"}, {"POST", "/v1/keys/default:rotate"}, {"POST", "/v1/keys:revoke"},
		} {
			req := f.request(t, r.method, r.path, strings.NewReader("{}"))
			req.Header["Authorization"] = auth
			// M-03, P-18: what a caller says of itself by headers counts for nothing.
			req.Header.Set("Grpc-Metadata-Authorization", "Bearer "+f.admin)
			req.Header.Set("Grpcgateway-Authorization", "Bearer "+f.admin)
			req.Header.Set("X-Forwarded-For", "127.0.0.1")
			req.Header.Set("Content-Type", "application/json")
			got := f.do(t, req)
			if got.http != 401 || got.code != sts.Unauthenticated || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: %s %s: %d %s", name, r.method, r.path, got.http, got.raw)
			}
			f.assertNoCanary(t, got.raw)
		}
	}
}

func TestGRPCMessages(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", basicAuth("web", f.secret))
	good := &stsv1.IssueTokenRequest{Audience: []string{"api"}}
	raw, err := proto.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendTag(raw, 900, protowire.BytesType)
	unknown = protowire.AppendString(unknown, canary)
	for _, row := range []struct {
		name string
		msg  []byte
		grpc codes.Code
		want sts.Code
	}{
		{"good", raw, codes.OK, ""},
		{"G-01 as large as may be", padded(raw, maxMessage), codes.InvalidArgument, sts.InvalidRequest},
		{"G-10 unknown field", unknown, codes.InvalidArgument, sts.InvalidRequest},
		{"G-10 not the message", []byte("\xff\xff\xff" + canary), codes.InvalidArgument, sts.InvalidRequest},
		{"invalid UTF-8", protowire.AppendString(protowire.AppendTag(raw, 6, protowire.BytesType), "\xff"), codes.InvalidArgument, sts.InvalidRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := f.before()
			var resp []byte
			err := f.conn.Invoke(ctx, stsv1.TokenService_IssueToken_FullMethodName, row.msg, &resp, grpc.ForceCodecV2(rawCodec{}))
			got := answerOf(err)
			if got.grpc != row.grpc {
				t.Errorf("code %v: %v", got.grpc, err)
			}
			if row.want != "" {
				f.assertRefused(t, b, got, row.want)
			}
		})
	}
	t.Run("G-01 too large", func(t *testing.T) {
		b := f.before()
		err := f.conn.Invoke(ctx, stsv1.TokenService_IssueToken_FullMethodName, padded(raw, maxMessage+1), &[]byte{}, grpc.ForceCodecV2(rawCodec{}))
		// It is refused by the length it declares and never read, so nothing was
		// asked that could be decided.
		if status.Code(err) != codes.ResourceExhausted || f.before() != b {
			t.Errorf("%v", err)
		}
	})
	t.Run("G-02 compressed", func(t *testing.T) {
		// No decompressor is linked in, so there is nothing to bomb.
		c := rawHTTP2(t, f.grpcAddr)
		if got := c.call(t, stsv1.TokenService_IssueToken_FullMethodName, "grpc-encoding", "gzip"); got != codes.Unimplemented {
			t.Errorf("code %v", got)
		}
	})
	t.Run("G-03 metadata of 17 KiB", func(t *testing.T) {
		_, err := stsv1.NewTokenServiceClient(f.conn).IssueToken(metadata.AppendToOutgoingContext(ctx, "x", strings.Repeat("x", 17<<10)), good)
		if err == nil {
			t.Error("accepted")
		}
	})
	for _, path := range []string{"sts.v1.TokenService/IssueToken", "/sts.v1.TokenService/IssueToken/", "/sts.v1.tokenservice/IssueToken", "/sts.v1.AdminService//Apply", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
		t.Run("G-06 G-09 "+path, func(t *testing.T) {
			if got := rawHTTP2(t, f.grpcAddr).call(t, path); got != codes.Unimplemented {
				t.Errorf("code %v", got)
			}
		})
	}
}

// padded adds a field of the message so that it has so many bytes.
func padded(raw []byte, n int) []byte {
	raw = protowire.AppendTag(raw, 6, protowire.BytesType)
	text := n - len(raw) - protowire.SizeVarint(uint64(n))
	return protowire.AppendString(raw, strings.Repeat("x", text))
}

// G-01: callers without credentials cannot make the server hold large messages,
// whatever the method is and however many they are.
func TestLargeMessagesAreNotHeld(t *testing.T) {
	f := newFixture(t)
	large := make([]byte, maxApply-1) // one for all callers, who are in this process too
	used := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, peak := used(), uint64(0)
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				peak = max(peak, used())
			}
		}
	}()
	methods := []string{stsv1.TokenService_IssueToken_FullMethodName, stsv1.AdminService_Apply_FullMethodName}
	var calls sync.WaitGroup
	for i := range 40 {
		calls.Go(func() {
			err := f.conn.Invoke(t.Context(), methods[i%len(methods)], large, &[]byte{}, grpc.ForceCodecV2(rawCodec{}))
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%v", err)
			}
		})
	}
	calls.Wait()
	close(stop)
	<-watched
	if grown := int64(peak) - int64(before); grown > 32<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// rawCodec sends and receives bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// G-10: nothing that a request can be made of makes a method panic.
func TestGRPCFuzzFields(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+f.admin)
	for service := range f.server.grpc.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			md := methods.Get(i)
			if md.IsStreamingServer() {
				continue
			}
			name := fmt.Sprintf("/%s/%s", service, md.Name())
			for depth := range 5 {
				in := dynamicpb.NewMessage(md.Input())
				fill(in, depth, "x")
				if err := f.conn.Invoke(ctx, name, in, dynamicpb.NewMessage(md.Output())); status.Code(err) == codes.Internal || status.Code(err) == codes.Unknown {
					t.Errorf("%s at depth %d: %v", name, depth, err)
				}
			}
		}
	}
	if strings.Contains(f.log.String(), "panic") {
		t.Error(f.log.String())
	}
}

// fill sets every field of a message, messages below only to a depth.
func fill(m protoreflect.Message, depth int, text string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			v := mp.NewValue()
			if fd.MapValue().Message() != nil && depth > 0 {
				fill(v.Message(), depth-1, text)
			} else if fd.MapValue().Message() == nil {
				v = scalar(fd.MapValue(), text)
			}
			mp.Set(protoreflect.ValueOfString(text).MapKey(), v)
		case fd.IsList():
			l := m.Mutable(fd).List()
			v := l.NewElement()
			if fd.Message() != nil && depth > 0 {
				fill(v.Message(), depth-1, text)
			} else if fd.Message() == nil {
				v = scalar(fd, text)
			}
			l.Append(v)
		case fd.Message() != nil:
			v := m.NewField(fd)
			if depth > 0 {
				fill(v.Message(), depth-1, text)
			}
			m.Set(fd, v)
		default:
			m.Set(fd, scalar(fd, text))
		}
	}
}

func scalar(fd protoreflect.FieldDescriptor, text string) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(7)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(99)
	default:
		panic("no value for " + fd.Kind().String())
	}
}

// G-14: a deadline that passes while the key is awaited gives no token.
func TestDeadline(t *testing.T) {
	f := newFixture(t)
	never := make(chan struct{})
	f.keys.block.Store(&never)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", basicAuth("web", f.secret))
	_, err := stsv1.NewTokenServiceClient(f.conn).IssueToken(ctx, &stsv1.IssueTokenRequest{Audience: []string{"api"}})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Fatal(err)
	}
	if err := f.stop(); err != nil { // joins the call
		t.Fatal(err)
	}
	records := f.audit.all()
	if len(records) != 1 || records[0].Issued != nil || records[0].Outcome != "deny" {
		t.Errorf("records %+v", records)
	}
}

// The server's own deadline, on a face that sends none.
func TestRequestTimeout(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.RequestTimeout = 50 * time.Millisecond })
	never := make(chan struct{})
	f.keys.block.Store(&never)
	got := f.form(t, ask{method: "issue", auth: []string{basicAuth("web", f.secret)}, params: map[string][]string{"audience": {"api"}}})
	if got.http != 503 || got.code != sts.Unavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.http, got.raw)
	}
}

// F45: a message that does not arrive is not waited for.
func TestMessageThatNeverArrives(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.RequestTimeout = 100 * time.Millisecond })
	for _, method := range []string{stsv1.TokenService_IssueToken_FullMethodName, stsv1.TokenService_WatchToken_FullMethodName} {
		c := rawHTTP2(t, f.grpcAddr)
		c.open(t, method, false)
		if got := c.wait(t); got == codes.OK {
			t.Errorf("%s: code %v", method, got)
		}
	}
}

// http2Conn is a connection that says what a gRPC library would not.
type http2Conn struct {
	net.Conn
	framer *http2.Framer
}

func rawHTTP2(t *testing.T, addr string) *http2Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	out := &http2Conn{c, http2.NewFramer(c, c)}
	out.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := out.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *http2Conn) open(t *testing.T, path string, end bool, extra ...string) {
	t.Helper()
	var b strings.Builder
	e := hpack.NewEncoder(&b)
	headers := append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", "application/grpc", "te", "trailers"}, extra...)
	for i := 0; i < len(headers); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if end { // an empty message, said to be compressed if extra says with what
		if err := c.framer.WriteData(1, true, []byte{byte(min(len(extra), 1)), 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
	}
}

// wait returns the status that the stream ends with; Canceled if it is reset.
func (c *http2Conn) wait(t *testing.T) codes.Code {
	t.Helper()
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range frame.Fields {
				if h.Name == "grpc-status" {
					var code uint32
					if _, err := fmt.Sscan(h.Value, &code); err != nil {
						t.Fatal(err)
					}
					return codes.Code(code)
				}
			}
		case *http2.RSTStreamFrame:
			return codes.Canceled
		case *http2.GoAwayFrame:
			t.Fatalf("GOAWAY %v", frame.ErrCode)
		}
	}
}

func (c *http2Conn) call(t *testing.T, path string, extra ...string) codes.Code {
	t.Helper()
	c.open(t, path, true, extra...)
	return c.wait(t)
}

// G-12: pings that come too often end the connection.
func TestPings(t *testing.T) {
	f := newFixture(t)
	c := rawHTTP2(t, f.grpcAddr)
	for range 10 {
		if err := c.framer.WritePing(false, [8]byte{}); err != nil {
			return // the connection is closed already
		}
	}
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal("closed without GOAWAY")
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("%v", g.ErrCode)
			}
			return
		}
	}
}

// Both faces speak HTTP/2 under TLS, and no old version.
func TestTLSFaces(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, "one")
	config, closer, err := ReloadingTLS(cert, key, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	f := newFixture(t, func(c *Config) { c.HTTPTLS, c.GRPCTLS = config, config })
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).PostForm("https://"+f.httpAddr+"/oauth2/token", url.Values{
		"grant_type": {"client_credentials"}, "audience": {"api"}, "client_id": {"web"}, "client_secret": {f.secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("%s %s", resp.Proto, resp.Status)
	}
	for _, addr := range []string{f.httpAddr, f.grpcAddr} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("%s: ALPN %q", addr, p)
		}
		c.Close()
		if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
			t.Errorf("%s: TLS 1.1", addr)
			c.Close()
		}
	}
}
