# perl server.pl PORT FILE: answers every request with the file's content, one at a time.
use strict;
use warnings;
use IO::Socket::INET;
my ($port, $file) = @ARGV;
open my $in, '<:raw', $file or die "$file: $!";
my $body = do { local $/; <$in> };
my $answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: " . length($body)
    . "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n$body";
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 128, ReuseAddr => 1) or die "port $port: $!";
while (my $client = $server->accept) {
    my $head = '';
    while ($head !~ /\r\n\r\n/ && sysread($client, $head, 4096, length $head)) { }
    syswrite $client, $answer;
    close $client;
}
