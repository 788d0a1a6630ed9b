# Runs echo jobs on Sidekiq.
# frozen_string_literal: true

require_relative "jobs"

CHUNK = 1000
STOP_WITHIN_SECONDS = 10
RESULT_WITHIN_SECONDS = 30
OPTIONS = JSON.parse(ENV.fetch("PEER_OPTIONS"))

def job(number) = { "number" => number, "text" => "the quick brown fox jumps over the lazy dog" }

def submit(first, jobs)
  (first...first + jobs).each_slice(CHUNK) do |numbers|
    Sidekiq::Client.push_bulk("class" => Echo, "args" => numbers.map { |number| [job(number)] })
  end
end

def run(message)
  Echo.perform_async(message, true)
  _list, answer = Sidekiq.redis { |redis| redis.blpop("peer_results", timeout: RESULT_WITHIN_SECONDS) }
  raise "job #{message["number"]} returned #{answer}" unless answer && JSON.parse(answer) == message
end

# Milliseconds of each of some jobs, one after the other.
def timed(first, jobs)
  clock = -> { Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond) }
  (first...first + jobs).map do |number|
    started = clock.call
    run(job(number))
    clock.call - started
  end
end

def answer(message)
  $stdout.puts(JSON.generate(message))
  $stdout.flush
end

# Whatever workers say goes to stderr: stdout is the runner's.
workers = Array.new(OPTIONS["processes"]) do
  spawn("sidekiq", "--require", "./jobs.rb", "--concurrency", OPTIONS["concurrency"].to_s, in: File::NULL, out: :err)
end

def stop(workers)
  workers.each { |pid| Process.kill(:TERM, pid) }
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + STOP_WITHIN_SECONDS
  until workers.reject! { |pid| Process.wait(pid, Process::WNOHANG) }.nil? && workers.empty?
    workers.each { |pid| Process.kill(:KILL, pid) } if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
    sleep(0.02)
  end
end

begin
  answer("ready" => "sidekiq #{Sidekiq::VERSION}, redis-rb #{Redis::VERSION}, Ruby #{RUBY_VERSION}")
  while (line = $stdin.gets)
    ask = JSON.parse(line)
    first, jobs = ask.values_at("first", "jobs")
    if ask["do"] == "submit"
      submit(first, jobs)
      answer("submitted" => jobs)
    else
      answer("milliseconds" => timed(first, jobs))
    end
  end
ensure
  stop(workers)
end
